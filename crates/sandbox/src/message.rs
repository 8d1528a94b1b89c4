//! What supervisor, init and the program's child tell each other over their sockets, one message a packet.
//!
//! Fixed layout in memory order of one build: first byte the kind, then the fields, little-endian.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::limits::MESSAGE_BYTES_MAX;
use crate::sys::{self, Errno};
use crate::wire::{Bytes, Reader, Wire, Writer, wire_enum};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Supervisor to init: the uid map is written, build the sandbox.
    Mapped {},
    /// Supervisor to init: hand over to the program.
    Go {},
    /// Supervisor to init: end every process but yourself.
    KillAll {},
    /// Init to supervisor: the sandbox stands. Carries the PTY master, if there is one.
    Ready {},
    /// Init to supervisor, before [`Message::Ready`]: carries the root of the file system that holds all that the program can
    /// write, for a plan with outputs.
    Scratch {},
    /// Init or child to supervisor: a step failed, nothing was started.
    Failed { step: Bytes, errno: u32, message: Bytes },
    /// Child to supervisor, just before exec: the filter is on. Carries the listener if there is one, else says why not.
    Filtered { errno: u32 },
    /// Init to supervisor: the main process has ended.
    MainEnded { status: u32, user_ns: u64, system_ns: u64, maxrss_bytes: u64, scratch_full: bool },
    /// Init to supervisor: no process but init is left.
    AllGone { user_ns: u64, system_ns: u64, maxrss_bytes: u64 },
}

wire_enum!(Message {
    1 => Mapped {},
    2 => Go {},
    3 => KillAll {},
    4 => Ready {},
    5 => Failed { step, errno, message },
    6 => Filtered { errno },
    7 => MainEnded { status, user_ns, system_ns, maxrss_bytes, scratch_full },
    8 => AllGone { user_ns, system_ns, maxrss_bytes },
    9 => Scratch {},
});

/// What came over a socket.
#[derive(Debug)]
pub enum Received {
    Message(Message, Option<OwnedFd>),
    /// Nothing there now.
    Nothing,
    /// The other end is closed.
    Closed,
}

impl Message {
    pub fn send(&self, socket: BorrowedFd<'_>, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut writer = Writer::default();
        self.put(&mut writer);
        writer.out.truncate(MESSAGE_BYTES_MAX);
        sys::send(socket, &writer.out, fd, true).map(drop)
    }

    pub fn receive(socket: BorrowedFd<'_>, wait: bool) -> Result<Received, Errno> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        match sys::receive(socket, &mut buffer, wait) {
            Ok((0, _)) | Err(Errno(libc::ECONNRESET)) => Ok(Received::Closed),
            Ok((n, fd)) => {
                let mut reader = Reader::new(&buffer[..n]);
                match Message::take(&mut reader) {
                    Ok(message) => Ok(Received::Message(message, fd)),
                    Err(_) => Err(Errno(libc::EBADMSG)),
                }
            }
            Err(Errno(libc::EAGAIN | libc::EINTR)) => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }
}

/// A step that failed, on its way to becoming [`Message::Failed`].
#[derive(Debug, PartialEq, Eq)]
pub struct StepError {
    pub step: String,
    pub errno: Errno,
}

impl StepError {
    pub fn message(&self) -> Message {
        Message::Failed {
            step: self.step.chars().take(512).collect::<String>().into(),
            errno: self.errno.0 as u32,
            message: self.errno.to_string().into(),
        }
    }
}

/// Names the step that an errno belongs to.
pub trait Context<T> {
    fn step(self, name: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T, E: Into<Errno>> Context<T> for Result<T, E> {
    fn step(self, name: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|error| StepError { step: name(), errno: error.into() })
    }
}
