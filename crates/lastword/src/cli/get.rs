//! `lastword get`

use super::output::{print, print_json};
use super::{Globals, summary};

/// Show one execution
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword get 0190a1
  lastword get 0190a1 --json | jq .usage")]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    id: String,
    /// Print the execution object, with the first MiB of each stream
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let opened = globals.open()?;
    let executions = opened.executions();
    let id = executions.id(&args.id)?;
    match args.json {
        true => print_json(&executions.get_with_streams(id)?)?,
        false => print(&summary::of_one(&executions.get(id)?))?,
    }
    Ok(0)
}
