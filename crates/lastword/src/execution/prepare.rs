//! What an execution needs before its program can start: its image, and its compiled program.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use lastword_api::Execution;
use lastword_frame::Cause;
use lastword_sandbox::host::Base;
use lastword_store::Meta;

use super::compile::Job;
use super::{Cancel, Engine, Request, Sink};
use crate::backend::native::{self, Machine};
use crate::runtime::Runtime;
use crate::runtime::{Root, identity};

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
    /// `sha256:...` of what was unpacked.
    pub digest: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<(String, String)>,
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

impl Prepared<'_> {
    pub(crate) fn root(&self) -> Root<'_> {
        match &self.image {
            Some(image) => Root::Image { base: &self.base, digest: &image.digest },
            None => Root::Host(&self.base),
        }
    }
}

impl Engine {
    /// Gets what the request needs, and writes down in the execution what was found.
    pub(super) fn prepare(
        &self,
        execution: &mut Execution,
        request: &Request,
        origin: &Meta,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Prepared<'static>, Unprepared> {
        let machine = Machine::get();
        let mut prepared = match &request.image {
            Some(name) => self.with_image(execution, name, request.pull, sink)?,
            None => Prepared::nothing(machine),
        };
        execution.environment.runtime_version = self.version(request, &prepared);
        if let (Some(runtime), Some(_)) = (&request.runtime, request.entry())
            && runtime.compile.is_some()
        {
            self.with_build(execution, request, runtime, origin, &mut prepared, cancel)?;
        }
        Ok(prepared)
    }

    fn with_build(
        &self,
        execution: &mut Execution,
        request: &Request,
        runtime: &Runtime,
        origin: &Meta,
        prepared: &mut Prepared<'_>,
        cancel: &Cancel,
    ) -> Result<(), Unprepared> {
        let limits = runtime.compile.as_ref().map(|compile| compile.limits()).unwrap_or_default();
        let values = native::plan::values(request, runtime, &limits);
        let Some(command) = runtime.compile_command(&values) else { return Ok(()) };
        let toolchain = identity(prepared.root(), runtime);
        let job = Job {
            runtime,
            command,
            files: &request.files,
            toolchain: toolchain.as_bytes(),
            strict: request.strict,
            tenant: origin.tenant.as_deref(),
        };
        let built = self.compile(&job, execution, prepared, cancel)?;
        execution.compile = Some(built.compile);
        match built.dir {
            Some(dir) => {
                prepared.build = Some(dir);
                prepared.held.push(built.lock);
                Ok(())
            }
            None => Err(Unprepared { cause: Cause::CompileFailed }),
        }
    }
}
