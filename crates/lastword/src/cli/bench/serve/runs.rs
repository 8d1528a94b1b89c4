//! Short Python scripts that clients wait for, in turns with the same scripts run bare.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use lastword_api::Execution;
use reqwest::StatusCode;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::super::rate::{Taken, in_parallel, progress_bar};
use super::super::{PYTHON, ROUNDS};
use super::answers::check_object;
use super::client::{Client, Wrongs};
use super::limits::RUN_WAIT_S;
use super::programs::{python, script};

#[derive(Default)]
pub(super) struct Measured {
    pub(super) waited: Taken,
    pub(super) bare: Taken,
}

pub(super) fn measure(
    runtime: &Runtime,
    client: &Client,
    wrongs: &Wrongs,
    (runs, clients): (u64, u64),
    dir: &Path,
) -> anyhow::Result<Measured> {
    let bare = Bare::new(dir)?;
    let progress = progress_bar(runs);
    let mut measured = Measured::default();
    let next = Arc::new(AtomicU64::new(0));
    for round in 1..=ROUNDS as u64 {
        let until = runs * round / ROUNDS as u64;
        measured.waited.add(runtime.block_on(portion(client, wrongs, &next, until, clients)));
        progress.set_position(until);
        // Half as many bare ones give a steady rate and keep the whole short.
        let few = (runs / ROUNDS as u64 / 2).max(clients * 2);
        measured.bare.add(in_parallel(clients, &AtomicU64::new(0), few, |_| bare.run())?);
    }
    progress.finish_and_clear();
    Ok(measured)
}

/// Runs those numbered from `next` up to `until`, `clients` at a time.
async fn portion(client: &Client, wrongs: &Wrongs, next: &Arc<AtomicU64>, until: u64, clients: u64) -> Taken {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (client, wrongs, next) = (client.clone(), wrongs.clone(), Arc::clone(next));
        tasks.spawn(async move {
            let mut each = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= until {
                    next.fetch_min(until, Ordering::Relaxed);
                    return each;
                }
                let start = Instant::now();
                let result = run(&client, n).await;
                each.push(start.elapsed());
                wrongs.note_error(&format!("run {n}"), result);
            }
        });
    }
    let each = tasks.join_all().await.into_iter().flatten().collect();
    Taken { each, whole: begin.elapsed() }
}

async fn run(client: &Client, n: u64) -> anyhow::Result<()> {
    let known = python(n);
    let answer = client.post(&format!("/v1/executions?wait={RUN_WAIT_S}s"), &known.request).await?;
    let execution: Execution = answer.expect(StatusCode::OK)?.json()?;
    check_object(&known, &execution)
}

struct Bare {
    script: PathBuf,
}

impl Bare {
    fn new(dir: &Path) -> anyhow::Result<Bare> {
        let path = dir.join("bare.py");
        std::fs::write(&path, script(0)).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Bare { script: path })
    }

    fn run(&self) -> anyhow::Result<()> {
        let mut command = Command::new(PYTHON);
        command.arg(&self.script).env_clear().env("LANG", "C.UTF-8").stdin(Stdio::null());
        let output = command.output().with_context(|| format!("cannot run {PYTHON}"))?;
        ensure!(output.status.success() && output.stdout == b"first 0\nthird 0\n", "bare: {output:?}");
        Ok(())
    }
}
