//! `--venv DIR`: a Python environment of the caller, shared read-only.

use std::path::Path;

use anyhow::bail;

use crate::execution::Request;
use crate::execution::request::{Program, Shared};
use crate::runtime;
use crate::runtime::venv::Venv;

pub(super) fn enter(request: &mut Request, dir: &Path) -> anyhow::Result<()> {
    if request.image.is_some() {
        bail!("--venv is one of this machine's Python, which an image has not; leave out --image or --venv");
    }
    let venv = Venv::look(dir)?;
    for shared in &venv.shared {
        request.read_only.push(Shared {
            source: shared.source.clone(),
            path: shared.path.clone(),
            directory: shared.directory,
        });
    }
    request.runtime = match (&request.runtime, &request.program) {
        (Some(runtime), _) => Some(venv.runtime(runtime)),
        // For its help with buffers: the command stays as it is.
        (None, Program::Command { argv }) => Some(venv.runtime(runtime::for_command(argv))),
        (None, _) => None,
    };
    for (name, value) in venv.env {
        if !request.env.iter().any(|(set, _)| *set == name) {
            request.env.push((name, value));
        }
    }
    Ok(())
}
