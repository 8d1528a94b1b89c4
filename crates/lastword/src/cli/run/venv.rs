//! `--venv DIR`: a Python virtual environment of the caller, shared read-only.

use std::path::Path;

use anyhow::bail;

use crate::execution::Request;

pub(super) fn enter(_request: &mut Request, _dir: &Path) -> anyhow::Result<()> {
    bail!("--venv is not available yet in this version");
}
