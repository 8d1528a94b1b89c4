//! `lastword cancel`

use lastword_api::Status;
use uuid::Uuid;

use super::executions::{Asked, Executions};
use super::message::{say, say_error};
use super::output::print;
use super::{FAILURE, Globals};

/// End executions that run, and wait until their ends are durable
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword cancel 0190a1
  lastword list --status running --json | jq -r '.items[].id' | xargs lastword cancel

The transcript of a cancelled execution is complete: it has all that the program wrote before its end.
One that is still at its image or compile step is cancelled when that is done.")]
pub(crate) struct Args {
    /// Ids, or the beginnings of them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let opened = globals.open()?;
    let executions = opened.executions();
    // All are asked before one is waited for.
    let asked: Vec<anyhow::Result<Option<Uuid>>> = args.ids.iter().map(|id| ask(executions, id)).collect();
    let mut code = 0;
    for asked in asked {
        let ended = match asked {
            Ok(Some(id)) => see_end(executions, id),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            say_error(&error);
            code = FAILURE;
        }
    }
    Ok(code)
}

/// `None`: it has ended already.
fn ask(executions: Executions<'_>, id: &str) -> anyhow::Result<Option<Uuid>> {
    let id = executions.id(id)?;
    match executions.ask_to_end(id)? {
        Asked::Asked => Ok(Some(id)),
        Asked::HadEnded(status) => {
            say(&format!("execution {id} has ended already: {}", status.name()));
            Ok(None)
        }
    }
}

fn see_end(executions: Executions<'_>, id: Uuid) -> anyhow::Result<()> {
    // A program may be faster than the wish for its end.
    if let Some(status) = executions.see_end(id)?.filter(|status| *status != Status::Cancelled) {
        say(&format!("execution {id} ended before it was cancelled: {}", status.name()));
    }
    print(&format!("{id}\n"))
}
