//! `lastword rm`

use super::executions::Executions;
use super::message::say_error;
use super::output::print;
use super::{FAILURE, Globals};

/// Remove executions that have ended, with their transcripts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword rm 0190a1
  lastword list --status failed --json | jq -r '.items[].id' | xargs lastword rm")]
pub(crate) struct Args {
    /// Ids, or the beginnings of them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let opened = globals.open()?;
    let mut code = 0;
    for id in &args.ids {
        match remove(opened.executions(), id) {
            Ok(removed) => print(&format!("{removed}\n"))?,
            Err(error) => {
                say_error(&error);
                code = FAILURE;
            }
        }
    }
    Ok(code)
}

fn remove(executions: Executions<'_>, id: &str) -> anyhow::Result<uuid::Uuid> {
    let id = executions.id(id)?;
    executions.remove(id)?;
    Ok(id)
}
