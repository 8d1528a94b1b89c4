//! `lastword bench`

use anyhow::bail;

use super::Globals;

/// Measure this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword bench")]
pub struct Args {}

pub fn run(_args: &Args, _globals: &Globals) -> anyhow::Result<u8> {
    bail!("bench is not available yet in this version")
}
