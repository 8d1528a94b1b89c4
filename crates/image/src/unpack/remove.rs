//! Removal of directories that somebody else has filled.
//!
//! They may be deeper than we may have files open, or than a path can say. So nothing is descended into: every directory found is
//! moved up into one flat directory, emptied there, and its own directories are moved up in turn.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// A flat directory in which directories wait to be emptied.
pub(crate) struct Trash {
    fd: OwnedFd,
    next: u64,
}

impl Trash {
    /// Opens, or makes, the directory `name`. It is on the same file system as all that will be moved into it, and outside of that.
    pub(crate) fn open(parent: impl AsFd, name: &str) -> io::Result<Self> {
        match mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let fd = open_directory(&parent, name)?;
        // What a killed process left there.
        let mut next = 0;
        for left in names(&fd)? {
            let number: Option<u64> = str::from_utf8(&left).ok().and_then(|name| name.parse().ok());
            next = next.max(number.map_or(0, |number| number.saturating_add(1)));
        }
        Ok(Trash { fd, next })
    }

    /// Removes a directory with all that is in it. `gone` is told what each thing was.
    pub(crate) fn remove(
        &mut self,
        parent: impl AsFd,
        name: &[u8],
        gone: &mut dyn FnMut(&Stat),
    ) -> io::Result<()> {
        let first = self.bury(parent, name)?;
        self.empty(vec![first], gone)
    }

    /// Removes what a killed process left.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        let left = names(&self.fd)?;
        self.empty(left, &mut |_| ())
    }

    fn bury(&mut self, parent: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
        let number = self.next.to_string().into_bytes();
        self.next += 1;
        renameat(parent, name, &self.fd, &*number)?;
        Ok(number)
    }

    fn empty(&mut self, mut waiting: Vec<Vec<u8>>, gone: &mut dyn FnMut(&Stat)) -> io::Result<()> {
        while let Some(name) = waiting.pop() {
            let directory = open_directory(&self.fd, &*name)?;
            // A listing may miss something while what it lists is taken away; then the directory isn't empty yet.
            loop {
                for inside in names(&directory)? {
                    let stat = statat(&directory, &*inside, AtFlags::SYMLINK_NOFOLLOW)?;
                    if is_directory(&stat) {
                        waiting.push(self.bury(&directory, &inside)?);
                    } else {
                        unlinkat(&directory, &*inside, AtFlags::empty())?;
                        gone(&stat);
                    }
                }
                let stat = rustix::fs::fstat(&directory)?;
                match unlinkat(&self.fd, &*name, AtFlags::REMOVEDIR) {
                    Ok(()) => break gone(&stat),
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(crate) fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// What is in a directory, without `.` and `..`.
pub(crate) fn names(directory: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
