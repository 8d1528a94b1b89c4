//! The spool file: append only, and with room on disk held for what comes.

use std::os::fd::{AsFd, OwnedFd};

use lastword_sandbox::sys::{self, Errno};

use crate::limits::{RESERVE_FIRST_BYTES, RESERVE_STEP_BYTES, SEAL_RESERVE_BYTES};

pub(crate) struct Spool {
    file: OwnedFd,
    /// Bytes in the file.
    written: u64,
    /// Disk is held up to here.
    reserved: u64,
    /// False on file systems without fallocate: then only the write itself tells that the disk is full.
    can_reserve: bool,
}

impl Spool {
    pub(crate) fn new(file: OwnedFd) -> Spool {
        Spool { file, written: 0, reserved: 0, can_reserve: true }
    }

    /// Makes sure that `bytes` more, and the seal after them, will fit.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), Errno> {
        let wanted = self.written + bytes as u64 + SEAL_RESERVE_BYTES;
        if wanted <= self.reserved || !self.can_reserve {
            return Ok(());
        }
        let step = if self.reserved == 0 { RESERVE_FIRST_BYTES } else { RESERVE_STEP_BYTES };
        // A disk too full for a whole step may still have room for what is needed now.
        for end in [wanted.max(self.reserved + step), wanted] {
            match sys::reserve(self.file.as_fd(), self.reserved, end) {
                Ok(()) => {
                    self.reserved = end;
                    return Ok(());
                }
                Err(Errno(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                    self.can_reserve = false;
                    return Ok(());
                }
                Err(_) => {}
            }
        }
        Err(Errno(libc::ENOSPC))
    }

    /// Writes from the front of `bytes`; returns how many got there and what stopped it.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < bytes.len() {
            match sys::write(self.file.as_fd(), &bytes[done..]) {
                Ok(n) => {
                    done += n;
                    self.written += n as u64;
                }
                Err(Errno(libc::EINTR)) => {}
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }
}
