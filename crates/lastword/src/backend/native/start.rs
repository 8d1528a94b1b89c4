//! Starts a supervisor and talks to it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use lastword_sandbox::plan::Plan;
use lastword_sandbox::sys;
use rustix::event::Timespec;
use rustix::event::{PollFd, PollFlags, poll};

use super::image;
use crate::execution::Cancel;

const GO: u8 = b'G';
const CANCEL: u8 = b'C';
/// How often the deadline, and a cancel that has no descriptor to wake us by, are looked for.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
/// News that one read takes off the socket.
const NEWS_BYTES: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make the supervisor's program file")]
    Image(#[source] io::Error),
    #[error("cannot start the supervisor")]
    Spawn(#[source] io::Error),
    #[error("cannot hand the plan to the supervisor")]
    Plan(#[source] io::Error),
    #[error("cannot listen to the supervisor")]
    Listen(#[source] io::Error),
}

/// A supervisor that we started. Dropping it lets it go on alone.
#[derive(Debug)]
pub struct Supervisor {
    child: Child,
    socket: UnixStream,
    cancelled: bool,
}

/// Descriptors that go along with a plan.
#[derive(Debug, Default)]
pub struct Passed {
    pub stdin: Option<OwnedFd>,
    /// Takes the output files; there is one exactly if the plan has outputs.
    pub pack: Option<OwnedFd>,
    /// The spool's own; there is one exactly if the plan says so.
    pub control: Option<OwnedFd>,
    /// Locks that the supervisor holds until the end; the plan has their number.
    pub held: Vec<OwnedFd>,
}

/// What [`Supervisor::wait_for_news`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The spool may have grown.
    Some,
    /// The supervisor is gone; the spool won't grow any more.
    End,
    /// The deadline has passed.
    Late,
}

impl Supervisor {
    /// Starts a supervisor that writes to `spool` (and holds its lock by that), and hands it the plan. It builds the sandbox
    /// right away, but doesn't start the program before [`Supervisor::go`].
    pub fn start(plan: &Plan, passed: Passed, spool: &File) -> Result<Supervisor, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::Spawn)?;
        let mut command = Command::new(image::path().map_err(Error::Image)?);
        command
            .env_clear()
            // No current_dir: std would fork in a static binary, where it finds no posix_spawn that changes it.
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(spool.try_clone().map_err(Error::Spawn)?))
            .stderr(Stdio::null());
        let child = command.spawn().map_err(Error::Spawn)?;
        // The command holds its copies of the socket and the spool until it is dropped.
        drop(command);
        let mut supervisor = Supervisor { child, socket: ours, cancelled: false };
        supervisor.send_plan(&plan.encode(), &passed).map_err(Error::Plan)?;
        Ok(supervisor)
    }

    fn send_plan(&mut self, bytes: &[u8], passed: &Passed) -> io::Result<()> {
        let sent = self.send(&bytes[..8], passed.stdin.as_ref())?;
        self.socket.write_all(&bytes[sent..])?;
        for fd in passed.pack.iter().chain(&passed.control).chain(&passed.held) {
            self.send(&[0], Some(fd))?;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
        sys::send(self.socket.as_fd(), bytes, fd.map(AsFd::as_fd), true)
            .map_err(|errno| io::Error::from_raw_os_error(errno.0))
    }

    /// The accept is durable: the program may start.
    pub fn go(&mut self) -> Result<(), Error> {
        self.socket.write_all(&[GO]).map_err(Error::Plan)
    }

    /// Waits until there may be more in the spool, passing on a cancel meanwhile.
    pub fn wait_for_news(&mut self, cancel: &Cancel, deadline: Instant) -> Result<News, Error> {
        loop {
            if Instant::now() >= deadline {
                return Ok(News::Late);
            }
            if cancel.is_asked() && !self.cancelled {
                self.cancelled = true;
                // A supervisor that is gone needs no telling.
                let _ = self.socket.write_all(&[CANCEL]);
            }
            let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
            if let (Some(wake), false) = (cancel.wake(), self.cancelled) {
                fds.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
            }
            match poll(&mut fds, Some(&LOOK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::Listen(error.into())),
            }
            if fds[0].revents().is_empty() {
                continue;
            }
            let mut news = [0; NEWS_BYTES];
            match sys::receive(self.socket.as_fd(), &mut news, false) {
                Ok((0, _)) => return Ok(News::End),
                Ok(_) => return Ok(News::Some),
                Err(sys::Errno(errno)) => {
                    let error = io::Error::from_raw_os_error(errno);
                    match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                        io::ErrorKind::ConnectionReset => return Ok(News::End),
                        _ => return Err(Error::Listen(error)),
                    }
                }
            }
        }
    }

    /// The hard deadline from outside, for a supervisor that is stuck. Its sandbox ends with it.
    pub fn kill(&mut self) {
        // It can fail only if it has ended.
        let _ = self.child.kill();
    }

    /// Without a go the supervisor takes the sandbox down and ends.
    pub fn abandon(self) {
        let Supervisor { mut child, socket, .. } = self;
        drop(socket);
        // It can fail only if somebody else reaped it.
        let _ = child.wait();
    }

    /// Waits for the process itself, so that nothing of it is left.
    pub fn reap(&mut self) -> Result<std::process::ExitStatus, Error> {
        self.child.wait().map_err(Error::Listen)
    }
}
