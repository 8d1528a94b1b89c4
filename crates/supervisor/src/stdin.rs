//! Feeds the program's stdin through a pipe, so that the program never holds a descriptor of the host.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use lastword_sandbox::sys::{self, Errno, pollfd};

use crate::limits::STDIN_BUFFER_BYTES;

/// End of input on a terminal: the default VEOF character.
const TERMINAL_EOF: u8 = 4;

/// The permission bits of a file that may still grow; without any of them it has its last length.
const MAY_GROW: u32 = 0o222;

/// Where more comes from.
pub(crate) enum Source {
    /// poll tells when there is more.
    Descriptor(OwnedFd),
    Growing(Growing),
}

/// A regular file that others append to. poll says of it that it can be read, always, so somebody has to tell us.
pub(crate) struct Growing {
    file: OwnedFd,
    /// Bytes that were read.
    at: u64,
    /// All that was there has been read, and nobody has told of more since.
    dry: bool,
}

/// What a source gave.
enum Taken {
    Bytes(usize),
    Nothing,
    End,
}

pub(crate) struct StdinPump {
    source: Option<Source>,
    /// The program's pipe, or the PTY master.
    sink: OwnedFd,
    pending: Vec<u8>,
    done: usize,
    terminal: bool,
}

impl Growing {
    pub(crate) fn new(file: OwnedFd) -> Growing {
        Growing { file, at: 0, dry: false }
    }

    fn take(&mut self, into: &mut [u8]) -> Result<Taken, Errno> {
        // Before the read: bytes that come between the two must not be taken for the end.
        let closed = sys::file_status(self.file.as_fd())?.permissions & MAY_GROW == 0;
        let n = sys::read_at(self.file.as_fd(), into, self.at)?;
        self.at += n as u64;
        self.dry = n == 0;
        Ok(match n {
            0 if closed => Taken::End,
            0 => Taken::Nothing,
            n => Taken::Bytes(n),
        })
    }
}

impl Source {
    fn take(&mut self, into: &mut [u8]) -> Result<Taken, Errno> {
        match self {
            Source::Growing(growing) => growing.take(into),
            Source::Descriptor(fd) => read_some(fd, into).map(|n| match n {
                0 => Taken::End,
                n => Taken::Bytes(n),
            }),
        }
    }
}

impl StdinPump {
    /// `sink` must not block.
    pub(crate) fn new(source: Option<Source>, bytes: Vec<u8>, sink: OwnedFd, terminal: bool) -> StdinPump {
        let mut pump = StdinPump { source, sink, pending: bytes, done: 0, terminal };
        if pump.source.is_none() {
            pump.mark_end();
        }
        pump
    }

    fn mark_end(&mut self) {
        if self.terminal {
            self.pending.push(TERMINAL_EOF);
        }
    }

    /// What to wait for: room in the pipe while something is pending, else more input. `None`: only for
    /// [`StdinPump::look_again`].
    pub(crate) fn pollfd(&self) -> Option<pollfd> {
        let (fd, events) = match (&self.source, self.pending.is_empty()) {
            (Some(Source::Descriptor(source)), true) => (source.as_raw_fd(), libc::POLLIN),
            (Some(Source::Growing(growing)), true) if growing.dry => return None,
            _ => (self.sink.as_raw_fd(), libc::POLLOUT),
        };
        Some(pollfd { fd, events, revents: 0 })
    }

    /// Somebody says that a growing file may have more, or its end.
    pub(crate) fn look_again(&mut self) {
        if let Some(Source::Growing(growing)) = &mut self.source {
            growing.dry = false;
        }
    }

    /// Whoever started us is gone. What it typed at its terminal from now on is not for this program.
    pub(crate) fn starter_is_gone(&mut self) {
        if matches!(&self.source, Some(Source::Descriptor(fd)) if sys::is_terminal(fd.as_fd())) {
            self.source = None;
            self.mark_end();
        }
    }

    /// Moves one buffer on. False: all is fed, or nobody reads any more; drop the pump to close the pipe.
    pub(crate) fn turn(&mut self) -> bool {
        if self.pending.is_empty() {
            let Some(source) = &mut self.source else { return false };
            let mut buffer = vec![0; STDIN_BUFFER_BYTES];
            match source.take(&mut buffer) {
                Ok(Taken::End) => {
                    self.source = None;
                    self.mark_end();
                    return !self.pending.is_empty();
                }
                Ok(Taken::Bytes(n)) => {
                    buffer.truncate(n);
                    self.pending = buffer;
                }
                Ok(Taken::Nothing) | Err(Errno(libc::EAGAIN | libc::EINTR)) => return true,
                // A source that fails (a terminal that went away) is one that has ended.
                Err(_) => return false,
            }
        }
        match sys::write(self.sink.as_fd(), &self.pending[self.done..]) {
            Ok(n) => self.done += n,
            Err(Errno(libc::EAGAIN | libc::EINTR)) => return true,
            Err(_) => return false,
        }
        if self.done == self.pending.len() {
            self.pending = Vec::new();
            self.done = 0;
        }
        !self.pending.is_empty() || self.source.is_some()
    }
}

/// Never blocks: a socket is told so by the call, everything else was opened so.
fn read_some(source: &OwnedFd, into: &mut [u8]) -> Result<usize, Errno> {
    match sys::receive(source.as_fd(), into, false) {
        Ok((n, _)) => Ok(n),
        Err(Errno(libc::ENOTSOCK)) => sys::read(source.as_fd(), into),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "stdin_tests.rs"]
mod tests;
