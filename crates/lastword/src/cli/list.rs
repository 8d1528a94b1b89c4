//! `lastword list`

use lastword_api::{Execution, Status, Timestamp};
use serde::Serialize;

use super::output::{print, print_json};
use super::{FAILURE, Globals, summary, values};
use crate::client::ListWish;

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

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let opened = globals.open()?;
    let wish =
        ListWish { status: args.status.clone(), labels: args.label.clone(), since: args.since, until: None };
    let (items, all) = opened.executions().list(&wish, usize::from(args.limit))?;
    if args.json {
        print_json(&Page { items })?;
    } else {
        print(&summary::of_many(&items))?;
    }
    Ok(if all { 0 } else { FAILURE })
}
