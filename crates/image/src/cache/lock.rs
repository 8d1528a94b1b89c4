//! The lock of one entry.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, flock, fstat, futimens, openat,
    statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use crate::limits::CACHE_TRIES_MAX;

/// Held until it, and all that were shared from it, are closed.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// `None` if it is taken and `operation` does not wait.
pub(crate) fn lock(locks: impl AsFd, name: &str, operation: FlockOperation) -> io::Result<Option<Lock>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..CACHE_TRIES_MAX {
        let fd = openat(&locks, name, flags, Mode::RUSR | Mode::WUSR)?;
        match retry_on_intr(|| flock(&fd, operation)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // While we waited, the file may have been removed; a lock on what has no name keeps nobody out.
        match statat(&locks, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if named.st_ino == fstat(&fd)?.st_ino => return Ok(Some(Lock(File::from(fd)))),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("it is removed again and again"))
}

impl Lock {
    /// The same lock once more: it is the open file that is locked, not the descriptor.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// Notes that the entry was used now.
    pub(crate) fn touch(&self) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        Ok(futimens(&self.0, &Timestamps { last_access: now, last_modification: now })?)
    }

    /// Of an entry that is gone, held exclusively: removes the file as well. If that fails, an empty file is left.
    pub(crate) fn forget(self, locks: impl AsFd, name: &str) {
        let _ = unlinkat(locks, name, AtFlags::empty());
    }
}

/// When the entry was used last; long ago if nobody knows.
pub(crate) fn last_use(locks: impl AsFd, name: &str) -> SystemTime {
    let file =
        openat(locks, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map(File::from);
    let used = file.ok().and_then(|file| file.metadata().ok()?.modified().ok());
    used.unwrap_or(SystemTime::UNIX_EPOCH)
}
