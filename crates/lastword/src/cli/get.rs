//! `lastword get`

use std::ops::ControlFlow;

use lastword_api::execution::INLINE_BYTES_DEFAULT;
use lastword_api::{Inline, Status};
use lastword_store::Store;
use uuid::Uuid;

use super::output::{print, print_json};
use super::replay::{Collector, Replay};
use super::{Globals, find, object, summary};

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
    let store = globals.open_store()?;
    let entry = find(&store, &args.id)?;
    let mut execution = object(&entry)?;
    if !args.json {
        print(&summary::of_one(&execution))?;
        return Ok(0);
    }
    execution.inline = Some(match execution.status {
        Status::Queued => Inline::default(),
        _ => inline(&store, entry.id)?,
    });
    print_json(&execution)?;
    Ok(0)
}

/// The beginning of both streams, from the transcript. What stands behind damage is left out: `verify` speaks of that.
pub(super) fn inline(store: &Store, id: Uuid) -> anyhow::Result<Inline> {
    let mut transcript = store.transcript(id)?;
    let mut collector = Collector::new(INLINE_BYTES_DEFAULT);
    let read = Replay::default().read_on(&mut transcript, &mut |record| {
        record.to_sink(&mut collector);
        if collector.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Err(error) = read {
        super::message::say_error(&error.into());
    }
    Ok(collector.into_inline())
}
