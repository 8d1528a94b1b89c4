//! The FIFO by which anybody who may write to it speaks to us, whether or not our starter lives.
//!
//! It is opened for reading and writing, so it never ends: who writes to it may come and go.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use lastword_sandbox::sys::{self, Errno};

use crate::limits::CONTROL_READ_BYTES;

/// End the run. Every other byte says no more than: look at the stdin again.
const CANCEL: u8 = b'C';

pub(crate) struct Control {
    fifo: OwnedFd,
}

/// What one turn of listening gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) cancel: bool,
}

impl Control {
    /// `fifo` must not block.
    pub(crate) fn new(fifo: OwnedFd) -> Control {
        Control { fifo }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fifo.as_raw_fd()
    }

    /// One read.
    pub(crate) fn listen(&self) -> Result<Heard, Errno> {
        let mut bytes = [0; CONTROL_READ_BYTES];
        match sys::read(self.fifo.as_fd(), &mut bytes) {
            // Not a FIFO that we may write to: it would be readable for ever.
            Ok(0) => Err(Errno(libc::EPIPE)),
            Ok(n) => Ok(Heard { cancel: bytes[..n].contains(&CANCEL) }),
            Err(Errno(libc::EAGAIN | libc::EINTR)) => Ok(Heard { cancel: false }),
            Err(errno) => Err(errno),
        }
    }
}
