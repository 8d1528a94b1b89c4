//! `lastword list`

use lastword_api::{Execution, Status, Timestamp};
use lastword_store::{Entry, Filter, Store};
use serde::Serialize;

use super::message::say_error;
use super::output::{print, print_json};
use super::{FAILURE, Globals, object, summary, values};
use crate::execution::STEP_LABEL;

/// Most executions that one list shows.
const LIMIT_MAX: u16 = 1000;

/// List executions, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lastword list --status failed --since 1h
  lastword list --label job=nightly --json | jq '.items[].id'
  lastword list --label lastword.step=compile     compile steps, which are left out otherwise")]
pub(crate) struct Args {
    /// Only with this status; may be given several times
    #[arg(long, value_name = "STATUS", value_parser = values::status)]
    status: Vec<Status>,
    /// Only with this label; of several, all must be there
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::label)]
    label: Vec<(String, String)>,
    /// Only created since then: 2026-01-31T12:00:00Z, or an age like 10m
    #[arg(long, value_name = "TIME", value_parser = values::point_in_time)]
    since: Option<Timestamp>,
    /// At most so many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=i64::from(LIMIT_MAX)))]
    limit: u16,
    /// Print {"items": [...]} with the execution objects, without their streams
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Page {
    items: Vec<Execution>,
}

/// Compile steps are shown by whoever asks for them: each belongs to an execution that says what came of it.
fn entries(store: &Store, args: &Args) -> anyhow::Result<Vec<Entry>> {
    let limit = usize::from(args.limit);
    let mut filter = Filter {
        status: args.status.iter().map(|status| status.name().to_owned()).collect(),
        labels: args.label.clone(),
        since_ns: args.since.map(Timestamp::ns),
        limit,
        ..Filter::default()
    };
    let steps_too = args.label.iter().any(|(key, _)| key == STEP_LABEL);
    let mut found = Vec::new();
    loop {
        let page = store.list(&filter)?;
        let last = page.last().map(|entry| entry.id);
        let whole = page.len() == limit;
        found.extend(
            page.into_iter().filter(|entry| steps_too || !entry.meta.labels.contains_key(STEP_LABEL)),
        );
        if found.len() >= limit || !whole {
            found.truncate(limit);
            return Ok(found);
        }
        filter.before = last;
    }
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let store = globals.open_store()?;
    let mut items = Vec::new();
    let mut code = 0;
    for entry in entries(&store, args)? {
        match object(&entry) {
            Ok(execution) => items.push(execution),
            // One that can't be read must not hide the others.
            Err(error) => {
                say_error(&error);
                code = FAILURE;
            }
        }
    }
    if args.json {
        print_json(&Page { items })?;
    } else {
        print(&summary::of_many(&items))?;
    }
    Ok(code)
}
