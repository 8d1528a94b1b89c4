//! How fast something was done, and how long each took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

#[derive(Debug, Default, Serialize)]
pub(super) struct Rate {
    pub(super) runs: u64,
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl Rate {
    pub(super) fn row(&self, name: &str) -> String {
        format!(
            "{name:20} {:>8} {:>10.1} {:>9.1} {:>9.1}\n",
            self.runs, self.per_second, self.p50_ms, self.p99_ms
        )
    }

    pub(super) fn head() -> String {
        format!("{:20} {:>8} {:>10} {:>9} {:>9}\n", "", "runs", "per s", "p50 ms", "p99 ms")
    }
}

#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) each: Vec<Duration>,
    pub(super) whole: Duration,
}

impl Taken {
    pub(super) fn add(&mut self, other: Taken) {
        self.each.extend(other.each);
        self.whole += other.whole;
    }

    pub(super) fn rate(mut self) -> Rate {
        self.each.sort_unstable();
        let whole = self.whole.as_secs_f64();
        Rate {
            runs: self.each.len() as u64,
            per_second: if whole > 0.0 { self.each.len() as f64 / whole } else { 0.0 },
            p50_ms: part_ms(&self.each, 0.5),
            p99_ms: part_ms(&self.each, 0.99),
        }
    }
}

/// So much of them, of 1, took so long or less. Milliseconds; 0 of none.
pub(super) fn part_ms(sorted: &[Duration], part: f64) -> f64 {
    let index = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}

/// Does `work` for every number from `next` up to `until`, `jobs` at a time.
pub(super) fn in_parallel(
    jobs: u64,
    next: &AtomicU64,
    until: u64,
    work: impl Fn(u64) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Taken> {
    let begin = Instant::now();
    let worker = || -> anyhow::Result<Vec<Duration>> {
        let mut each = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= until {
                next.fetch_min(until, Ordering::Relaxed);
                return Ok(each);
            }
            let start = Instant::now();
            work(n)?;
            each.push(start.elapsed());
        }
    };
    let each = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        let mut each = Vec::new();
        for thread in threads {
            each.extend(thread.join().map_err(|_| anyhow!("a worker panicked"))??);
        }
        anyhow::Ok(each)
    })?;
    Ok(Taken { each, whole: begin.elapsed() })
}

pub(super) fn progress_bar(len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {per_sec}  {eta} left");
    // Hidden by itself where stderr is no terminal.
    ProgressBar::new(len).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
