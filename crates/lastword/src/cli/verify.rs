//! `lastword verify`

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use lastword_api::Execution;
use lastword_store::{Entry, Error, Store, Verdict};
use serde::Serialize;
use uuid::Uuid;

use super::message::escaped;
use super::output::{print, print_json};
use super::{FAILURE, Globals, find, object};

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
    items: Vec<Item>,
    /// Null unless all was checked.
    segments: Option<Segments>,
}

/// What reading one execution again has shown.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    pub(super) id: Uuid,
    pub(super) ok: bool,
    pub(super) status: String,
    pub(super) complete: bool,
    pub(super) why_incomplete: Option<String>,
    pub(super) records: u64,
    pub(super) stdout_bytes: u64,
    pub(super) stderr_bytes: u64,
    /// Output files whose bytes are those of the seal.
    pub(super) outputs: u64,
    pub(super) output_bytes: u64,
    pub(super) problems: Vec<String>,
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
    let store = globals.open_store()?;
    let report = match &args.id {
        Some(id) => {
            let item = check(&store, &find(&store, id)?)?;
            Report { ok: item.ok, items: vec![item], segments: None }
        }
        None => check_all(&store)?,
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
            Err(error) if matches!(error.downcast_ref(), Some(Error::NotFound { .. })) => {}
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

pub(super) fn check(store: &Store, entry: &Entry) -> anyhow::Result<Item> {
    let mut verdict = store.verify(entry.id)?;
    match object(entry) {
        Ok(execution) if entry.ended => verdict.problems.extend(contradictions(&execution, &verdict)),
        Ok(_) => {}
        Err(error) => verdict.problems.push(format!("{error:#}")),
    }
    Ok(Item {
        id: entry.id,
        ok: verdict.problems.is_empty(),
        status: entry.meta.status.clone(),
        complete: verdict.complete,
        why_incomplete: verdict.why_incomplete,
        records: verdict.records,
        stdout_bytes: verdict.stdout_bytes,
        stderr_bytes: verdict.stderr_bytes,
        outputs: verdict.outputs,
        output_bytes: verdict.output_bytes,
        problems: verdict.problems,
    })
}

/// Where the execution object says other than the transcript that was read again.
fn contradictions(execution: &Execution, verdict: &Verdict) -> Vec<String> {
    let said = &execution.transcript;
    let mut found = Vec::new();
    if said.complete == Some(true) && !verdict.complete {
        let why = verdict.why_incomplete.as_deref().unwrap_or("nobody can say why");
        found.push(format!("the execution object says complete, and the transcript is not: {why}"));
    }
    let counts = [
        ("records", said.records, verdict.records),
        ("bytes of stdout", said.stdout.bytes, verdict.stdout_bytes),
        ("bytes of stderr", said.stderr.bytes, verdict.stderr_bytes),
        ("output files", execution.outputs.len() as u64, verdict.outputs),
    ];
    for (what, said, read) in counts {
        if said != read {
            found.push(format!("the execution object says {said} {what}, and {read} were read"));
        }
    }
    found
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

fn verdict_line(item: &Item) -> String {
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

#[cfg(test)]
mod tests {
    use lastword_api::{Backend, Limits, Timestamp};

    use super::*;

    #[test]
    fn an_object_that_says_other_than_the_transcript_is_found_out() {
        let mut execution =
            Execution::queued(Uuid::nil(), Timestamp::from_ns(0), Backend::Native, Limits::default());
        execution.transcript.complete = Some(true);
        execution.transcript.records = 2;
        execution.transcript.stdout.bytes = 5;
        let read = Verdict { complete: true, records: 2, stdout_bytes: 5, ..Verdict::default() };
        assert!(contradictions(&execution, &read).is_empty());
        assert_eq!(contradictions(&execution, &Verdict { complete: false, ..read.clone() }).len(), 1);
        let found = contradictions(&execution, &Verdict { stdout_bytes: 4, ..read });
        assert_eq!(found, ["the execution object says 5 bytes of stdout, and 4 were read"]);
    }
}
