//! `lastword doctor`

use anyhow::bail;

use super::Globals;

/// Say what this machine can enforce, and what it lacks
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword doctor")]
pub struct Args {}

pub fn run(_args: &Args, _globals: &Globals) -> anyhow::Result<u8> {
    bail!("doctor is not available yet in this version")
}
