//! Bytes to our own stdout and stderr: as they are, at once, and without an end of the world when nobody reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// One of our two outputs. Bytes go to the descriptor itself: a buffer in between could hold them back.
#[derive(Debug)]
pub struct Output<F: AsFd = BorrowedFd<'static>> {
    fd: F,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// Its reader went away: what follows has no place to go, and that is no error.
    Closed,
    Failed(Errno),
}

impl Output {
    pub fn stdout() -> Self {
        Self::new(rustix::stdio::stdout())
    }

    pub fn stderr() -> Self {
        Self::new(rustix::stdio::stderr())
    }
}

impl<F: AsFd> Output<F> {
    fn new(fd: F) -> Self {
        Self { fd, state: State::Open }
    }

    /// Writes all bytes, or finds out that it never can again: see [`Output::failure`].
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && matches!(self.state, State::Open) {
            match rustix::io::write(&self.fd, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                // Whoever shares this descriptor with us may have made it non-blocking.
                Err(Errno::AGAIN) => self.wait(),
                Err(Errno::PIPE) => self.state = State::Closed,
                Err(error) => self.state = State::Failed(error),
            }
        }
    }

    fn wait(&mut self) {
        let mut wanted = [PollFd::new(&self.fd, PollFlags::OUT)];
        match poll(&mut wanted, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => self.state = State::Failed(error),
        }
    }

    /// Nothing more will go out here.
    pub fn is_shut(&self) -> bool {
        !matches!(self.state, State::Open)
    }

    /// Why bytes could not be written, unless it was a reader that went away.
    pub fn failure(&self) -> Option<io::Error> {
        match self.state {
            State::Failed(error) => Some(error.into()),
            State::Open | State::Closed => None,
        }
    }
}

/// Writes data of a command to stdout.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = Output::stdout();
    stdout.write(text.as_bytes());
    match stdout.failure() {
        None => Ok(()),
        Some(error) => Err(anyhow::Error::new(error).context("cannot write to stdout")),
    }
}

/// Writes a value as JSON to stdout: readable on a terminal, else on one line.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let pretty = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut text = if pretty { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    text.push('\n');
    print(&text)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(writer);
        output.write(b"nobody hears this");
        assert!(output.is_shut() && output.failure().is_none());
        output.write(b"nor this");
    }

    #[test]
    fn a_full_pipe_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let text: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        let read = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let mut output = Output::new(writer);
        output.write(&text);
        assert!(output.failure().is_none());
        drop(output);
        assert!(read.join().unwrap().unwrap() == text);
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut output = Output::new(full);
        output.write(b"x");
        assert!(output.is_shut());
        assert_eq!(output.failure().unwrap().kind(), io::ErrorKind::StorageFull);
    }
}
