//! `lastword verify`

use std::io::IsTerminal;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use lastword_api::Verification;
use lastword_store::Store;
use serde::Serialize;

use super::executions::Opened;
use super::message::{Advice, escaped};
use super::output::{print, print_json};
use super::{FAILURE, Globals, exit};
use crate::stored::check;

/// Read transcripts again from disk, and check every byte against what was promised
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits with 1 if something is not right. A transcript that is not complete and says so is right.

Examples:
  lastword verify 0190a1
  lastword verify --all --json | jq '.items[] | select(.ok | not)'")]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<String>,
    /// Check all executions, and every segment of the store
    #[arg(long)]
    all: bool,
    /// Print {"ok", "items": [...], "segments"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// No problem was found.
    ok: bool,
    items: Vec<Verification>,
    /// Null unless all was checked.
    segments: Option<Segments>,
}

#[derive(Debug, Serialize)]
struct Segments {
    segments: u64,
    entries: u64,
    bytes: u64,
    problems: Vec<String>,
    notes: Vec<String>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let opened = globals.open()?;
    let report = match (&args.id, &opened) {
        (Some(id), opened) => {
            let item = opened.executions().verify(opened.executions().id(id)?)?;
            Report { ok: item.ok, items: vec![item], segments: None }
        }
        (None, Opened::Store(store)) => check_all(store)?,
        (None, Opened::Server(_)) => {
            return Err(anyhow!("--all reads a data directory, which a server shows nobody"))
                .hint("run lastword verify --all --data-dir DIR where the server runs, also while it does")
                .code(exit::USAGE);
        }
    };
    if args.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    Ok(if report.ok { 0 } else { FAILURE })
}

fn check_all(store: &Store) -> anyhow::Result<Report> {
    let ids = store.ids()?;
    let progress = progress_bar(ids.len());
    let mut items = Vec::with_capacity(ids.len());
    for id in ids {
        progress.inc(1);
        // Somebody else may remove executions meanwhile.
        let Some(entry) = store.get(id)? else { continue };
        match check(store, &entry) {
            Err(error) if error.is_not_found() => {}
            item => items.push(item?),
        }
    }
    let all = store.verify_segments()?;
    progress.finish_and_clear();
    Ok(Report {
        ok: items.iter().all(|item| item.ok) && all.problems.is_empty(),
        items,
        segments: Some(Segments {
            segments: all.segments,
            entries: all.entries,
            bytes: all.bytes,
            problems: all.problems,
            notes: all.notes,
        }),
    })
}

fn progress_bar(count: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(count as u64);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for item in &report.items {
        text.push_str(&format!("{}  {}\n", item.id, verdict_line(item)));
    }
    let Some(segments) = &report.segments else { return text };
    for note in &segments.notes {
        text.push_str(&format!("note: {}\n", escaped(note)));
    }
    for problem in &segments.problems {
        text.push_str(&format!("NOT RIGHT: {}\n", escaped(problem)));
    }
    let wrong = report.items.iter().filter(|item| !item.ok).count();
    text.push_str(&format!(
        "{} executions checked, {wrong} not right; {} segments with {} entries, {} problems\n",
        report.items.len(),
        segments.segments,
        segments.entries,
        segments.problems.len()
    ));
    text
}

fn verdict_line(item: &Verification) -> String {
    if !item.ok {
        return format!("NOT RIGHT: {}", escaped(&item.problems.join("; ")));
    }
    let whole = match &item.why_incomplete {
        None => "right, complete".to_owned(),
        Some(why) => format!("right, not complete: {}", escaped(why)),
    };
    let bytes = item.stdout_bytes + item.stderr_bytes;
    let outputs = match item.outputs {
        0 => String::new(),
        count => format!(", {count} output files of {} bytes", item.output_bytes),
    };
    format!("{whole}, {} records, {bytes} bytes{outputs}", item.records)
}
