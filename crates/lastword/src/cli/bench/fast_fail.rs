//! `lastword bench fast-fail`: programs that print to both streams and die at once, beside the same programs run bare.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, anyhow, ensure};
use lastword_api::Stream;
use lastword_store::Store;
use serde::Serialize;

use super::super::output::{print, print_json};
use super::super::{FAILURE, Globals};
use super::rate::{Rate, Taken, in_parallel, progress_bar};
use super::{PYTHON, ROUNDS};
use crate::execution::{Cancel, Engine, Request, Sink};
use crate::replay::Replay;
use crate::runtime;

/// Programs that print to both streams and fail at once
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many
    #[arg(short = 'n', long = "runs", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    runs: u64,
    /// How many at a time
    #[arg(short = 'j', long = "jobs", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    jobs: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was seen. `bad` holds the first few sentences of what was wrong.
#[derive(Debug, Default, Serialize)]
struct Figures {
    runs: u64,
    jobs: u64,
    complete: u64,
    missing: u64,
    out_of_order: u64,
    ordering_exact: u64,
    lastword: Rate,
    bare: Rate,
    /// Our rate over the bare one.
    ratio: f64,
    bad: Vec<String>,
}

pub(super) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    ensure!(Path::new(PYTHON).exists(), "this benchmark runs Python programs, and there is no {PYTHON}");
    let dir = globals.data_dir()?.join(format!("bench-{}", std::process::id()));
    let result = measure(args, &dir);
    // A store of its own, so that 10,000 runs of nobody's interest don't stay.
    let _ = std::fs::remove_dir_all(&dir);
    let figures = result?;
    if args.json {
        print_json(&figures)?;
    } else {
        print(&text(&figures))?;
    }
    let right = figures.bad.is_empty() && figures.complete == figures.runs;
    Ok(if right { 0 } else { FAILURE })
}

fn measure(args: &Args, dir: &Path) -> anyhow::Result<Figures> {
    let store = Store::open(dir).with_context(|| format!("cannot open a store in {}", dir.display()))?;
    let engine = Engine::new(store, dir);
    let bench = Bench::new(&engine, dir)?;
    let progress = progress_bar(args.runs);
    let (mut ours, mut bare) = (Taken::default(), Taken::default());
    let next = AtomicU64::new(0);
    for round in 1..=ROUNDS as u64 {
        let until = args.runs * round / ROUNDS as u64;
        ours.add(in_parallel(args.jobs, &next, until, |n| {
            bench.sandboxed(n)?;
            progress.inc(1);
            Ok(())
        })?);
        // Half as many bare ones give a steady rate and keep the whole short.
        let other = AtomicU64::new(0);
        let few = (args.runs / ROUNDS as u64 / 2).max(args.jobs * 2);
        bare.add(in_parallel(args.jobs, &other, few, |n| bench.bare(n))?);
    }
    progress.finish_and_clear();
    let mut figures = bench.seen.into_inner().unwrap_or_default();
    bench_stored(&engine.store, &mut figures)?;
    figures.runs = args.runs;
    figures.jobs = args.jobs;
    figures.lastword = ours.rate();
    figures.bare = bare.rate();
    figures.ratio = figures.lastword.per_second / figures.bare.per_second;
    Ok(figures)
}

/// Everything once more, from the disk.
fn bench_stored(store: &Store, figures: &mut Figures) -> anyhow::Result<()> {
    for id in store.ids()? {
        let verdict = store.verify(id)?;
        if verdict.complete && verdict.problems.is_empty() {
            figures.complete += 1;
        } else {
            note(figures, format!("{id}: {:?} {:?}", verdict.why_incomplete, verdict.problems));
        }
    }
    Ok(())
}

fn note(figures: &mut Figures, sentence: String) {
    const FIRST: usize = 20;
    if figures.bad.len() < FIRST {
        figures.bad.push(sentence);
    }
}

struct Bench<'a> {
    engine: &'a Engine,
    script: PathBuf,
    /// What Python says of the exception, with the path in the sandbox.
    traceback: String,
    seen: Mutex<Figures>,
}

/// `n` makes every program's output its own: bytes of another run would show.
fn program(n: u64) -> String {
    format!(
        "import sys\nprint(\"first {n}\")\nprint(\"second {n}\", file=sys.stderr)\nprint(\"third {n}\")\n1/0\n"
    )
}

impl<'a> Bench<'a> {
    fn new(engine: &'a Engine, dir: &Path) -> anyhow::Result<Self> {
        let script = dir.join("bare.py");
        std::fs::write(&script, program(0)).with_context(|| format!("cannot write {}", script.display()))?;
        let mut bench = Bench { engine, script, traceback: String::new(), seen: Mutex::default() };
        let (_, stderr) = bench.run_bare()?;
        let (_, traceback) = stderr.split_once('\n').context("Python printed no traceback")?;
        bench.traceback = traceback.replace(&bench.script.display().to_string(), "/work/main.py");
        Ok(bench)
    }

    fn run_bare(&self) -> anyhow::Result<(String, String)> {
        let output = Command::new(PYTHON)
            .arg(&self.script)
            .env_clear()
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {PYTHON}"))?;
        Ok((String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    }

    fn bare(&self, _: u64) -> anyhow::Result<()> {
        let (stdout, _) = self.run_bare()?;
        ensure!(stdout == "first 0\nthird 0\n", "the bare program printed {stdout:?}");
        Ok(())
    }

    fn sandboxed(&self, n: u64) -> anyhow::Result<()> {
        let runtime = runtime::by_name("python")?;
        let request = Request::code(runtime, program(n).into_bytes());
        let mut all = All::default();
        let execution = self.engine.run(request, &mut all, &Cancel::default())?;
        let stored = self.stored(execution.id)?;
        let ended = (execution.status.name(), execution.exit_code) == ("failed", Some(1));
        let exact = execution.transcript.ordering == Some(lastword_api::Ordering::Exact);
        let Ok(mut seen) = self.seen.lock() else { return Err(anyhow!("another thread panicked")) };
        seen.ordering_exact += u64::from(exact);
        if !ended {
            note(&mut seen, format!("{}: ended as {:?}", execution.id, execution.problem));
        }
        for got in [&all, &stored] {
            self.compare(n, got, &mut seen);
        }
        Ok(())
    }

    /// What the store gives back, which is not what was shown on the way there.
    fn stored(&self, id: uuid::Uuid) -> anyhow::Result<All> {
        let mut all = All::default();
        let mut transcript = self.engine.store.transcript(id)?;
        let _ = Replay::default().read_on(&mut transcript, &mut |record| {
            record.to_sink(&mut all);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    fn compare(&self, n: u64, got: &All, seen: &mut Figures) {
        let traceback = &self.traceback;
        let expected =
            [format!("first {n}\nthird {n}\n").into_bytes(), format!("second {n}\n{traceback}").into_bytes()];
        let together = format!("first {n}\nsecond {n}\nthird {n}\n{traceback}").into_bytes();
        if got.streams != expected {
            seen.missing += 1;
            note(seen, format!("run {n} wrote {:?}", String::from_utf8_lossy(&got.together)));
        } else if got.together != together {
            seen.out_of_order += 1;
            note(seen, format!("run {n} is out of order: {:?}", String::from_utf8_lossy(&got.together)));
        }
    }
}

/// All that a run wrote.
#[derive(Default)]
struct All {
    streams: [Vec<u8>; 2],
    together: Vec<u8>,
}

impl Sink for All {
    fn record(&mut self, stream: Stream, _: i64, _: u64, bytes: &[u8]) {
        self.streams[lastword_frame::Stream::from(stream).index()].extend_from_slice(bytes);
        self.together.extend_from_slice(bytes);
    }

    fn dropped(&mut self, _: Stream, _: i64, _: u64, _: u64) {}
}

fn text(figures: &Figures) -> String {
    let mut text = Rate::head();
    text += &figures.bare.row("bare");
    text += &figures.lastword.row("lastword");
    text += &format!("ratio {:.2}, {} at a time\n", figures.ratio, figures.jobs);
    text += &format!(
        "{} complete of {}, {} missing a byte, {} out of order, {} in exact order\n",
        figures.complete, figures.runs, figures.missing, figures.out_of_order, figures.ordering_exact
    );
    for sentence in &figures.bad {
        text += &format!("wrong: {sentence}\n");
    }
    text
}
