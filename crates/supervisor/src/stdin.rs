//! Feeds the program's stdin through a pipe, so that the program never holds a descriptor of the host.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use lastword_sandbox::sys::{self, Errno, pollfd};

use crate::limits::STDIN_BUFFER_BYTES;

/// End of input on a terminal: the default VEOF character.
const TERMINAL_EOF: u8 = 4;

pub(crate) struct StdinPump {
    source: Option<OwnedFd>,
    /// The program's pipe, or the PTY master.
    sink: OwnedFd,
    pending: Vec<u8>,
    done: usize,
    terminal: bool,
}

impl StdinPump {
    /// `sink` must not block.
    pub(crate) fn new(source: Option<OwnedFd>, bytes: Vec<u8>, sink: OwnedFd, terminal: bool) -> StdinPump {
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

    /// What to wait for: room in the pipe while something is pending, else more input.
    pub(crate) fn pollfd(&self) -> pollfd {
        let (fd, events) = match (&self.source, self.pending.is_empty()) {
            (Some(source), true) => (source.as_raw_fd(), libc::POLLIN),
            _ => (self.sink.as_raw_fd(), libc::POLLOUT),
        };
        pollfd { fd, events, revents: 0 }
    }

    /// Whoever started us is gone. What it typed at its terminal from now on is not for this program.
    pub(crate) fn starter_is_gone(&mut self) {
        if self.source.as_ref().is_some_and(|source| sys::is_terminal(source.as_fd())) {
            self.source = None;
            self.mark_end();
        }
    }

    /// Moves one buffer on. False: all is fed, or nobody reads any more; drop the pump to close the pipe.
    pub(crate) fn turn(&mut self) -> bool {
        if self.pending.is_empty() {
            let Some(source) = &self.source else { return false };
            let mut buffer = vec![0; STDIN_BUFFER_BYTES];
            match read_some(source, &mut buffer) {
                Ok(0) => {
                    self.source = None;
                    self.mark_end();
                    return !self.pending.is_empty();
                }
                Ok(n) => {
                    buffer.truncate(n);
                    self.pending = buffer;
                }
                Err(Errno(libc::EAGAIN | libc::EINTR)) => return true,
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
