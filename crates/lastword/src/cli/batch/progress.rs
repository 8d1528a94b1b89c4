//! What a batch says on stderr: how far it is, and what came of it.

use std::collections::BTreeMap;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use lastword_api::{Execution, Reason, Status};

use super::limits::NAMED_ROWS_MAX;
use super::resume::is_for_again;
use crate::cli::message;

/// Sentences, around a progress bar that is there only where stderr is a terminal.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    bar: ProgressBar,
    quiet: bool,
}

impl Voice {
    pub(super) fn new(quiet: bool) -> Voice {
        // Hidden by itself where stderr is no terminal.
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::no_length() };
        Voice { bar, quiet }
    }

    /// Shows the bar from now on. `total`: rows, if somebody knows.
    pub(super) fn begin(&self, total: Option<u64>) {
        let template = match total {
            Some(_) => "{bar:30} {pos}/{len} rows  {per_sec}  {eta} left  {msg}",
            None => "{spinner} {pos} rows  {per_sec}  {msg}",
        };
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        let style = ProgressStyle::with_template(template);
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.reset();
    }

    pub(super) fn show(&self, tally: &Tally) {
        self.bar.set_message(tally.bad_ones());
        self.bar.set_position(tally.rows);
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn say(&self, sentence: &str) {
        if !self.quiet {
            self.bar.suspend(|| message::say(sentence));
        }
    }

    pub(super) fn hint(&self, sentence: &str) {
        if !self.quiet {
            self.bar.suspend(|| message::hint(sentence));
        }
    }
}

/// What of a result matters for the summary and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) reason: Option<Reason>,
    /// The transcript is whole, or the program is to blame that it isn't: it wrote more than it may.
    pub(super) vouched: bool,
    /// `--resume` would run it again.
    pub(super) again: bool,
}

impl Verdict {
    pub(super) fn of(execution: &Execution) -> Verdict {
        let transcript = &execution.transcript;
        let cut = transcript.stdout.dropped + transcript.stderr.dropped > 0
            || execution.reason == Some(Reason::OutputLimit);
        Verdict {
            status: execution.status,
            reason: execution.reason,
            vouched: execution.is_complete() || cut,
            again: is_for_again(execution),
        }
    }

    /// No fault of the program: it is not known what it would have done, or not all that it said.
    fn is_ours(&self) -> bool {
        matches!(self.status, Status::Error | Status::Cancelled) || !self.vouched
    }
}

/// Results by status and reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) rows: u64,
    by: BTreeMap<(Status, &'static str), u64>,
    /// Rows that failed through no fault of their program.
    pub(super) ours: u64,
    named: Vec<u64>,
    again: u64,
}

impl Tally {
    pub(super) fn add(&mut self, row: u64, verdict: &Verdict) {
        self.rows += 1;
        let reason = verdict.reason.map_or("", Reason::name);
        *self.by.entry((verdict.status, reason)).or_default() += 1;
        if verdict.is_ours() {
            self.ours += 1;
            if self.named.len() < NAMED_ROWS_MAX {
                self.named.push(row);
            }
        }
        self.again += u64::from(verdict.again);
    }

    fn of(&self, status: Status) -> u64 {
        self.by.iter().filter(|((of, _), _)| *of == status).map(|(_, count)| count).sum()
    }

    fn bad_ones(&self) -> String {
        let failed = self.of(Status::Failed) + self.of(Status::TimedOut);
        format!("{failed} failed, {} errors", self.of(Status::Error))
    }

    /// `new`: rows that were not there before this process.
    pub(super) fn summary(&self, new: u64, begin: Instant) -> String {
        let seconds = begin.elapsed().as_secs_f64();
        let mut parts = Vec::new();
        for status in Status::ALL {
            let count = self.of(status);
            if count == 0 {
                continue;
            }
            let reasons = self.by.iter().filter(|((of, reason), _)| *of == status && !reason.is_empty());
            let reasons: Vec<String> = reasons.map(|((_, reason), n)| format!("{reason} {n}")).collect();
            let name = status.name();
            parts.push(match &reasons[..] {
                [] => format!("{count} {name}"),
                // The only thing that can be said of most: they ended by themselves.
                [only] if only.starts_with("exit ") => format!("{count} {name}"),
                reasons => format!("{count} {name} ({})", reasons.join(", ")),
            });
        }
        let all = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        let rate = if seconds > 0.0 { new as f64 / seconds } else { 0.0 };
        format!("{} rows in {seconds:.1} s, {rate:.1} per second{all}", self.rows)
    }

    /// Which rows are no fault of their programs, and what to do about it.
    pub(super) fn faults(&self) -> Option<(String, Option<&'static str>)> {
        if self.ours == 0 {
            return None;
        }
        let mut rows: Vec<String> = self.named.iter().map(u64::to_string).collect();
        if self.ours > self.named.len() as u64 {
            rows.push("...".into());
        }
        let sentence = format!(
            "{} of them failed through no fault of their program; their problem says why: row {}",
            self.ours,
            rows.join(", ")
        );
        let hint = "the same command with --resume runs those again that were not started, and nothing else";
        Some((sentence, (self.again > 0).then_some(hint)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: Status, reason: Option<Reason>, vouched: bool) -> Verdict {
        Verdict { status, reason, vouched, again: false }
    }

    #[test]
    fn whose_fault_it_is() {
        for (status, vouched, ours) in [
            (Status::Succeeded, true, false),
            (Status::Failed, true, false),
            (Status::TimedOut, true, false),
            (Status::Succeeded, false, true),
            (Status::Cancelled, true, true),
            (Status::Error, true, true),
        ] {
            assert_eq!(verdict(status, None, vouched).is_ours(), ours, "{status:?}");
        }
    }

    #[test]
    fn a_summary() {
        let mut tally = Tally::default();
        tally.add(0, &verdict(Status::Succeeded, Some(Reason::Exit), true));
        tally.add(1, &verdict(Status::Failed, Some(Reason::Exit), true));
        tally.add(2, &verdict(Status::Failed, Some(Reason::OutOfMemory), true));
        assert!(tally.faults().is_none());
        tally.add(3, &Verdict { again: true, ..verdict(Status::Error, None, true) });
        let text = tally.summary(4, Instant::now());
        assert!(text.starts_with("4 rows in 0.0 s"), "{text}");
        assert!(text.ends_with("1 succeeded, 2 failed (exit 1, out_of_memory 1), 1 error"), "{text}");
        let (text, hint) = tally.faults().unwrap();
        assert!(text.starts_with("1 of them failed through no fault") && text.ends_with("row 3"), "{text}");
        assert!(hint.is_some());
    }
}
