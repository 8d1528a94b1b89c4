//! The socket to whoever started us: the plan comes in, with it descriptors, then single bytes; single bytes go out when
//! there is news.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use lastword_sandbox::plan::{Plan, WireError};
use lastword_sandbox::sys::{self, Errno};

use crate::limits::HELD_MAX;

/// Starter to supervisor: the accept is durable, the program may start.
const GO: u8 = b'G';
/// Starter to supervisor: end the run.
const CANCEL: u8 = b'C';
/// Supervisor to starter: there is something new in the spool.
const NEWS: u8 = b'.';

#[derive(Debug)]
pub(crate) enum PlanError {
    Socket(Errno),
    Closed,
    TooLarge,
    Wire(WireError),
    Descriptor,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Socket(errno) => write!(f, "receive the plan: {errno}"),
            PlanError::Closed => write!(f, "receive the plan: the starter went away"),
            PlanError::TooLarge => write!(f, "receive the plan: it is over all bounds"),
            PlanError::Wire(error) => write!(f, "{error}"),
            PlanError::Descriptor => write!(f, "receive the plan: a descriptor is missing"),
        }
    }
}

/// What the starter says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Go,
    Cancel,
    /// It is gone. The run goes on.
    Gone,
    Nothing,
}

/// What came along with a plan.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) stdin: Option<OwnedFd>,
    /// The file that takes the output files, one after the other.
    pub(crate) pack: Option<OwnedFd>,
    pub(crate) control: Option<OwnedFd>,
    /// Locks; to be dropped with everything else at the end.
    pub(crate) held: Vec<OwnedFd>,
}

pub(crate) struct Starter {
    socket: Option<OwnedFd>,
}

impl Starter {
    pub(crate) fn new(socket: OwnedFd) -> Starter {
        Starter { socket: Some(socket) }
    }

    /// Blocks until the whole plan is here, with all descriptors that it announces.
    pub(crate) fn receive_plan(&mut self) -> Result<(Plan, Passed), PlanError> {
        let mut prefix = [0; 8];
        let stdin = self.fill(&mut prefix)?;
        let len = Plan::encoded_len(prefix).ok_or(PlanError::TooLarge)?;
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        let plan = Plan::decode(&bytes).map_err(PlanError::Wire)?;
        let pack = plan.outputs.as_ref().map(|_| self.descriptor()).transpose()?;
        let control = plan.control.then(|| self.descriptor()).transpose()?;
        let held = (0..plan.held.min(HELD_MAX)).map(|_| self.descriptor()).collect::<Result<_, _>>()?;
        Ok((plan, Passed { stdin, pack, control, held }))
    }

    /// One byte without meaning, and the descriptor that it carries.
    fn descriptor(&mut self) -> Result<OwnedFd, PlanError> {
        self.fill(&mut [0])?.ok_or(PlanError::Descriptor)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<Option<OwnedFd>, PlanError> {
        let socket = self.socket.as_ref().ok_or(PlanError::Closed)?;
        let mut passed = None;
        let mut done = 0;
        while done < into.len() {
            match sys::receive(socket.as_fd(), &mut into[done..], true) {
                Ok((0, _)) => return Err(PlanError::Closed),
                Ok((n, fd)) => {
                    done += n;
                    passed = passed.or(fd);
                }
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => return Err(PlanError::Socket(errno)),
            }
        }
        Ok(passed)
    }

    pub(crate) fn raw_fd(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(crate) fn listen(&mut self) -> Word {
        let Some(socket) = &self.socket else { return Word::Nothing };
        let mut byte = [0];
        match sys::receive(socket.as_fd(), &mut byte, false) {
            Ok((1, _)) if byte[0] == GO => Word::Go,
            Ok((1, _)) if byte[0] == CANCEL => Word::Cancel,
            Ok((1, _)) | Err(Errno(libc::EAGAIN | libc::EINTR)) => Word::Nothing,
            Ok(_) | Err(_) => {
                self.socket = None;
                Word::Gone
            }
        }
    }

    /// Never waits: a starter that doesn't listen has news waiting already.
    pub(crate) fn tell_news(&self) {
        if let Some(socket) = &self.socket {
            let _ = sys::send(socket.as_fd(), &[NEWS], None, false);
        }
    }
}
