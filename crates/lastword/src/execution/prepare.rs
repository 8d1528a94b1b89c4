//! What an execution needs before its program can start: its image, and its compiled program.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use lastword_api::Execution;
use lastword_frame::Cause;
use lastword_sandbox::host::Base;

use super::{Cancel, Engine, Request};
use crate::backend::native::Machine;

/// All that a plan is made from beside the request.
#[derive(Debug)]
pub struct Prepared<'a> {
    pub base: Cow<'a, Base>,
    pub image: Option<ImageRun>,
    /// The compile step's result, to be seen at /build.
    pub build: Option<PathBuf>,
    /// A writable /build: this is the compile step itself.
    pub compiling: bool,
    /// Locks on caches, for as long as the program runs.
    pub held: Vec<OwnedFd>,
}

/// What an image says about how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRun {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: Option<PathBuf>,
    /// uid and gid inside the sandbox.
    pub user: Option<(u32, u32)>,
}

impl<'a> Prepared<'a> {
    /// This machine as it is.
    pub fn nothing(machine: &'a Machine) -> Prepared<'a> {
        Prepared {
            base: Cow::Borrowed(&machine.base),
            image: None,
            build: None,
            compiling: false,
            held: Vec::new(),
        }
    }
}

/// Why the program was never started.
#[derive(Debug)]
pub(super) struct Unprepared {
    pub(super) cause: Cause,
}

impl Unprepared {
    pub(super) fn new(step: &str, message: String) -> Unprepared {
        Unprepared { cause: Cause::StartFailure { step: step.into(), errno: 0, message } }
    }
}

impl Engine {
    pub(super) fn prepare(
        &self,
        _execution: &mut Execution,
        _request: &mut Request,
        _cancel: &Cancel,
    ) -> Result<Prepared<'static>, Unprepared> {
        Ok(Prepared::nothing(Machine::get()))
    }
}
