//! Lookups that can't leave a directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::limits::LOOKUP_TRIES_MAX;

/// Opens `path` as a process would see it whose root directory is `root`: absolute links and `..` begin and end there.
pub(crate) fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlags::IN_ROOT)
}

/// A regular file below `root`, for reading. Nothing else is opened: no pipe that would have us wait, no device.
pub(crate) fn open_file(root: impl AsFd, path: &[u8]) -> io::Result<File> {
    regular(resolve(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, ResolveFlags::IN_ROOT)?)
}

/// The same, where a link that leads out of `root` is an error, not a name inside.
pub(crate) fn open_file_within(root: impl AsFd, path: &[u8]) -> io::Result<File> {
    regular(resolve(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, ResolveFlags::BENEATH)?)
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::RegularFile => Ok(File::from(fd)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

fn resolve(root: impl AsFd, path: &[u8], flags: OFlags, how: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let how = how | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..LOOKUP_TRIES_MAX {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            // Something was renamed or mounted while it looked: it can't vouch for the result.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}
