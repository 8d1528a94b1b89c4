//! What was seen, and how it is shown.

use std::time::Duration;

use lastword_api::Capacity;
use serde::Serialize;

use super::super::rate::{Rate, Taken, part_ms};
use super::queued::{self, Size};
use super::runs;
use super::server::Memory;

/// `bad` holds the first few sentences of what was wrong.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    capacity: Capacity,
    clients: u64,
    pub(super) answers: u64,
    pub(super) wrong: u64,
    runs: Option<Runs>,
    queued: Option<Queued>,
    pub(super) memory: Vec<(&'static str, Option<Memory>)>,
    pub(super) bad: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Runs {
    bare: Rate,
    waited: Rate,
    /// The rate over HTTP over the bare one.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Queued {
    submitted: Rate,
    drained: u64,
    drained_per_second: f64,
    refused: u64,
    followers: u64,
    slow_followers: u64,
    events: usize,
    /// Of which object, log, seal and check by the server agree.
    checked: u64,
    lines: Vec<Lines>,
}

/// From a program's write to a follower, while one thing or another went on.
#[derive(Debug, Serialize)]
struct Lines {
    when: &'static str,
    count: u64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Lines {
    fn new(when: &'static str, sorted: &[Duration]) -> Lines {
        let count = sorted.len() as u64;
        Lines { when, count, p50_ms: part_ms(sorted, 0.5), p99_ms: part_ms(sorted, 0.99) }
    }
}

impl Figures {
    pub(super) fn new(capacity: Capacity, clients: u64) -> Figures {
        let (memory, bad) = (Vec::new(), Vec::new());
        Figures { capacity, clients, answers: 0, wrong: 0, runs: None, queued: None, memory, bad }
    }

    pub(super) fn add_runs(&mut self, measured: runs::Measured) {
        let (bare, waited) = (measured.bare.rate(), measured.waited.rate());
        let ratio = waited.per_second / bare.per_second;
        self.runs = Some(Runs { bare, waited, ratio });
    }

    pub(super) fn add_queued(&mut self, measured: queued::Measured, size: Size) {
        let [quiet, full, draining] = &measured.lines;
        let [with_full, after] = measured.memory;
        self.memory.extend([("with a full queue", with_full), ("after it", after)]);
        let Taken { each, whole } = measured.submitted;
        self.queued = Some(Queued {
            submitted: Taken { each, whole }.rate(),
            drained: measured.drained,
            drained_per_second: measured.drained as f64 / measured.drain.as_secs_f64(),
            refused: measured.refused,
            followers: size.followers,
            slow_followers: measured.slow_followers,
            events: measured.events,
            checked: measured.checked,
            lines: vec![
                Lines::new("one follower", quiet),
                Lines::new("queue full", full),
                Lines::new("queue drains", draining),
            ],
        });
    }

    pub(super) fn text(&self) -> String {
        let mut text = Rate::head();
        if let Some(runs) = &self.runs {
            text += &runs.bare.row("bare");
            text += &runs.waited.row("over HTTP, waited");
        }
        if let Some(queued) = &self.queued {
            text += &queued.submitted.row("into the queue");
            for Lines { when, count, p50_ms, p99_ms } in &queued.lines {
                text += &format!(
                    "{:20} {count:>8} {:>10} {p50_ms:>9.1} {p99_ms:>9.1}\n",
                    format!("line, {when}"),
                    ""
                );
            }
        }
        if let Some(runs) = &self.runs {
            text += &format!(
                "ratio {:.2}, {} clients, {} at a time\n",
                runs.ratio, self.clients, self.capacity.concurrency
            );
        }
        if let Some(queued) = &self.queued {
            text += &format!(
                "{} drained, {:.1} per s, with {} followers, {} of them slow; {} more refused\n",
                queued.drained,
                queued.drained_per_second,
                queued.followers,
                queued.slow_followers,
                queued.refused
            );
            text += &format!("{} checked byte for byte, {} events\n", queued.checked, queued.events);
        }
        for (when, memory) in &self.memory {
            if let Some(Memory { now_bytes, peak_bytes }) = memory {
                let [now, peak] = [now_bytes, peak_bytes].map(|bytes| *bytes as f64 / f64::from(1 << 20));
                text += &format!("server's memory, {when}: {now:.1} MiB, at most {peak:.1} MiB\n");
            }
        }
        text += &format!("{} answers, {} wrong\n", self.answers, self.wrong);
        for sentence in &self.bad {
            text += &format!("wrong: {sentence}\n");
        }
        text
    }
}
