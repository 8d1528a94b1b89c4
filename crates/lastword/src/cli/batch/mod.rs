//! `lastword batch`: many requests, a bounded number at a time.
//!
//! ```text
//!   lines --> reader --> queue --> workers --> engine --> store
//!                                     \-> results, in order or as they end --> stdout, or a file
//! ```
//! With `--server` the workers have a server run rows, each with one request that waits for its end.
//!
//! The store is the only truth: what is to be known of a row after a crash stands in the labels of its executions, and
//! results that wait for their turn are read from there again.

mod journal;
mod kept;
mod limits;
mod progress;
mod queue;
mod results;
mod resume;
mod rows;
mod server;
mod stop;
mod work;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use anyhow::{Context, anyhow};
use uuid::Uuid;

use self::journal::{Journal, Known, Whole};
use self::kept::Kept;
use self::limits::{JOBS_MAX, RETRIES_MAX};
use self::progress::{Tally, Voice};
use self::queue::{Job, Queue};
use self::results::{Event, Out, Results, Shut};
use self::resume::Past;
use self::rows::{Digest, Line, Lines};
use self::stop::{Stop, Why};
use self::work::{Hands, Runner, Work};
use super::message::Advice;
use super::output::Output;
use super::run::share;
use super::server::told;
use super::{FAILURE, Globals, exit};
use crate::client::{Client, Patience};
use crate::execution::Request;
use crate::execution::request::Program;

/// Where batches are written down, in the data directory.
const DIRECTORY: &str = "batches";
/// Added to the number of a signal.
const SIGNAL: u8 = 128;
/// Results that may wait to be written, for each worker.
const RESULTS_AHEAD: usize = 1;

/// Run many requests, one JSON object a line
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line is a request, as in run --request, and may have a \"key\" of your own. Each result is one line: the row's number,
its key, and the execution object. A program that fails is a result. Exits with 0 if every row has one that lastword can
vouch for, else with 1; after Ctrl-C with 130.

Examples:
  lastword batch rows.jsonl > results.jsonl
  lastword batch rows.jsonl --out results.jsonl            results in a file
  lastword batch rows.jsonl --out results.jsonl --resume   go on after a crash; no row runs twice
  make-rows | lastword batch - -j8 --as-they-end | grade
  lastword batch rows.jsonl --server http://127.0.0.1:7070 > results.jsonl")]
pub(crate) struct Args {
    /// The rows; - is stdin
    #[arg(value_name = "FILE.jsonl", default_value = "-")]
    file: PathBuf,
    /// Rows at a time [default: the number of processors, or what the server does at a time]
    #[arg(short = 'j', long = "jobs", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(JOBS_MAX)))]
    jobs: Option<u16>,
    /// Give each result out when its row ends, not in the order of the rows
    #[arg(long)]
    as_they_end: bool,
    /// Go on with the last batch of this input, or with the one of this id
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    resume: Option<Option<Uuid>>,
    /// Write the results to this file
    #[arg(long, value_name = "FILE.jsonl")]
    out: Option<PathBuf>,
    /// Run a row again so often if lastword failed before its program was started
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=i64::from(RETRIES_MAX)))]
    retries: u8,
    /// Share a file or directory with every program, read-only
    #[arg(long, value_name = "SRC[:DST]")]
    ro: Vec<OsString>,
    /// Run every program with this Python virtual environment
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let begin = Instant::now();
    let voice = Voice::new(args.quiet);
    let stop = Arc::new(Stop::default());
    // What is wrong for every row is said before the first one.
    let server = globals.server.as_deref();
    match server {
        None => share(&mut Request::new(Program::Image), &args.ro, args.venv.as_deref()).code(exit::USAGE)?,
        Some(_) => server::refuse_shared(args)?,
    }
    let input = Input::open(&args.file)?;
    let out = args.out.as_deref().map(kept::open).transpose()?;
    stop.on_signals(&voice)?;
    let hands = Hands::of(globals)?;
    let runner = hands.runner();
    let jobs = args.jobs(runner, &stop)?;
    let mut lines = Lines::new(input.fd, &stop.cancel);
    let first = lines.next().with_context(|| format!("cannot read {}", args.file.display()))?;
    let Some(first) = first else {
        return Ok(end_code(&stop, 0, &voice)?.unwrap_or(0));
    };
    let dir = globals.data_dir()?.join(DIRECTORY);
    let chosen = choose(args, &dir, first.digest, input.whole.as_ref(), server.map(Client::server), &voice)?;
    let (mut journal, past) = match chosen {
        Some(known) => {
            let journal = Journal::take(&known).hint("wait for it, or stop it with Ctrl-C or SIGTERM")?;
            let past = match runner {
                Runner::Here(engine) => resume::look_up(&engine.store, journal.id)?,
                Runner::Server(client) => resume::look_up_at(client, journal.id)?,
            };
            voice.say(&format!("going on with batch {}: {} rows have been run", journal.id, past.len()));
            (journal, past)
        }
        None => {
            if let (Some(file), Some(path)) = (&out, &args.out) {
                kept::refuse_old(file, path)?;
            }
            let server = server.map(Client::server);
            (Journal::begin(&dir, first.digest, input.whole.clone(), server)?, HashMap::new())
        }
    };
    let kept = match (&out, &args.out) {
        (Some(file), Some(path)) => kept::keep(file, path, journal.id, &past, args.as_they_end)?,
        _ => Kept::default(),
    };
    let out = match (out, &args.out) {
        (Some(file), Some(path)) => Out::File { file, path: path.clone(), synced: begin },
        _ => Out::Stdout(Output::stdout()),
    };
    voice.begin(input.rows);
    let (work, queue) = (Work::new(args, runner, journal.id, &stop), Queue::new(jobs));
    let old = kept.tally.rows;
    let tally = kept.tally.clone();
    let results = Results::new(runner.executions(), &queue, out, args.as_they_end, kept.next, tally);
    let reader = Reader { lines, past, kept, known_whole: input.whole.is_some(), stop: &stop };
    let batch = Batch { work: &work, queue: &queue, stop: &stop, voice: &voice, jobs };
    let tally = batch.run(reader, first, results, &mut journal);
    voice.end();
    voice.say(&tally.summary(tally.rows.saturating_sub(old), begin));
    if let Some((sentence, hint)) = tally.faults() {
        voice.say(&sentence);
        hint.into_iter().for_each(|hint| voice.hint(hint));
    }
    if let Some(code) = end_code(&stop, tally.rows, &voice)? {
        return Ok(code);
    }
    journal.finished(tally.rows)?;
    Ok(if tally.ours == 0 { 0 } else { FAILURE })
}

impl Args {
    /// A server is asked for what it does at a time, also so that one that isn't there is found out before anything begins.
    fn jobs(&self, runner: Runner<'_>, stop: &Stop) -> anyhow::Result<usize> {
        let most = match runner {
            Runner::Here(_) => std::thread::available_parallelism().map_or(1, usize::from),
            Runner::Server(client) => {
                let patience = Patience { stop: Some(&stop.cancel), for_room: false };
                let most = told(client.capacity(patience))?.concurrency;
                usize::try_from(most).unwrap_or(usize::MAX).clamp(1, usize::from(JOBS_MAX))
            }
        };
        Ok(self.jobs.map_or(most, usize::from))
    }
}

/// The rows' source.
struct Input {
    fd: OwnedFd,
    /// Of a regular file: known before the first row starts.
    whole: Option<Whole>,
    rows: Option<u64>,
}

impl Input {
    fn open(path: &Path) -> anyhow::Result<Input> {
        let cannot = || format!("cannot read the rows from {}", path.display());
        let fd = if path == Path::new("-") {
            std::io::stdin().as_fd().try_clone_to_owned().with_context(cannot)?
        } else {
            File::open(path).with_context(cannot).code(exit::USAGE)?.into()
        };
        let file = File::from(fd);
        let metadata = file.metadata().with_context(cannot)?;
        if metadata.is_dir() {
            return Err(anyhow!("{} is a directory", path.display())).code(exit::USAGE);
        }
        if !metadata.is_file() {
            return Ok(Input { fd: file.into(), whole: None, rows: None });
        }
        let (blake3, bytes, rows) = rows::look_over(&file).with_context(cannot)?;
        Ok(Input { fd: file.into(), whole: Some(Whole { blake3, bytes }), rows: Some(rows) })
    }
}

/// The batch to go on with. `None`: a new one.
fn choose(
    args: &Args,
    dir: &Path,
    first: Digest,
    whole: Option<&Whole>,
    server: Option<String>,
    voice: &Voice,
) -> anyhow::Result<Option<Known>> {
    if let Some(Some(id)) = args.resume {
        let (known, begins) = journal::by_id(dir, id).code(exit::USAGE)?;
        if known.server != server {
            let place =
                known.server.map_or("without --server".into(), |server| format!("with --server {server}"));
            return Err(anyhow!("batch {id} was begun elsewhere"))
                .hint(format!("go on with it {place}"))
                .code(exit::USAGE);
        }
        if begins != first {
            return Err(anyhow!("batch {id} began with another first row")).code(exit::USAGE);
        }
        return Ok(Some(known));
    }
    let mut candidates = journal::beginning_with(dir, first)?;
    candidates.retain(|known| known.server == server);
    // A file is known by all of it. Of a stream nothing but its first row is known yet: that each row is the one that ran
    // before is seen as it comes.
    let same = |known: &&Known| match (&known.input, whole) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => true,
    };
    let found = candidates.iter().find(same);
    match (args.resume.is_some(), found) {
        (true, Some(known)) => Ok(Some(known.clone())),
        (true, None) => {
            voice.say("there is no batch of this input to go on with: this is a new one");
            if let Some(known) = candidates.first() {
                voice.hint(&format!("one that begins with the same row: --resume={}", known.id));
            }
            Ok(None)
        }
        (false, Some(known)) if !known.finished => {
            voice.say(&format!("batch {} of the same input was not finished; this is a new one", known.id));
            voice.hint("--resume goes on with it instead");
            Ok(None)
        }
        (false, _) => Ok(None),
    }
}

/// Why the batch stopped, as an exit code and a sentence.
fn end_code(stop: &Stop, rows: u64, voice: &Voice) -> anyhow::Result<Option<u8>> {
    const GO_ON: &str = "the same command with --resume goes on";
    let code = match stop.why() {
        None => return Ok(None),
        Some(Why::Failed(error)) => return Err(error),
        Some(Why::Signal(signal)) => {
            voice.say(&format!("stopped after {rows} rows"));
            SIGNAL.saturating_add(signal)
        }
        Some(Why::NobodyReads) => {
            voice.say(&format!("stopped after {rows} rows: nobody reads the results any more"));
            FAILURE
        }
        Some(Why::DiskFull) => {
            super::message::say("stopped: the disk of the data directory is full");
            super::message::hint(&format!("free some space; then {GO_ON}"));
            return Ok(Some(FAILURE));
        }
    };
    voice.hint(GO_ON);
    Ok(Some(code))
}

/// Gives rows to the queue.
struct Reader<'a> {
    lines: Lines<'a>,
    past: HashMap<u64, Past>,
    kept: Kept,
    /// The journal has the digest of the whole input already.
    known_whole: bool,
    stop: &'a Stop,
}

impl Reader<'_> {
    fn run(mut self, first: Line, queue: &Queue, journal: &mut Journal) {
        if let Err(error) = self.read(first, queue, journal) {
            self.stop.because(Why::Failed(error));
        }
        queue.close();
    }

    fn read(&mut self, first: Line, queue: &Queue, journal: &mut Journal) -> anyhow::Result<()> {
        let mut next = Some(first);
        while let Some(line) = next {
            let past = self.past.remove(&line.row);
            if let Some(past) = past.filter(|past| past.line != line.digest) {
                return Err(anyhow!(
                    "row {} is not the one that batch {} ran as {}; nothing was run for it",
                    line.row,
                    journal.id,
                    past.id
                ))
                .hint("give it the input that it began with, or name another batch with --resume=ID");
            }
            if !self.kept.has(line.row) && !queue.push(Job { line, past }, self.stop) {
                return Ok(());
            }
            next = self.lines.next().context("cannot read the rows")?;
        }
        if let (Some((blake3, bytes)), false) = (self.lines.whole(), self.known_whole) {
            journal.input(Whole { blake3, bytes })?;
        }
        if !self.stop.is_asked() && !self.past.is_empty() {
            return Err(anyhow!(
                "the input ends before row {}, which batch {} has run",
                self.past.keys().max().unwrap_or(&0),
                journal.id
            ))
            .hint("give it the input that it began with");
        }
        Ok(())
    }
}

struct Batch<'a> {
    work: &'a Work<'a>,
    queue: &'a Queue,
    stop: &'a Stop,
    voice: &'a Voice,
    jobs: usize,
}

impl Batch<'_> {
    /// Returns when every row that was started has its result.
    fn run(&self, reader: Reader<'_>, first: Line, mut results: Results<'_>, journal: &mut Journal) -> Tally {
        let (sender, receiver) = mpsc::sync_channel::<Event>(self.jobs * RESULTS_AHEAD);
        std::thread::scope(|scope| {
            scope.spawn(|| reader.run(first, self.queue, journal));
            for _ in 0..self.jobs {
                let sender = sender.clone();
                scope.spawn(move || {
                    while let Some(job) = self.queue.pop(self.stop) {
                        if let Some(event) = self.work.result(&job) {
                            // Nobody listens any more: the result is in the store.
                            let _ = sender.send(event);
                        }
                    }
                });
            }
            drop(sender);
            let mut out_of_use = false;
            for event in receiver {
                // Rows that run are awaited, also when there is nobody to tell.
                if !out_of_use {
                    out_of_use = !self.told(results.take(event));
                    self.voice.show(&results.tally);
                }
            }
            if !out_of_use {
                self.told(results.end());
            }
        });
        results.tally
    }

    /// False if no more results can be given out.
    fn told(&self, told: anyhow::Result<Result<(), Shut>>) -> bool {
        match told {
            Ok(Ok(())) => return true,
            Ok(Err(Shut)) => self.stop.because(Why::NobodyReads),
            Err(error) => self.stop.because(Why::Failed(error)),
        };
        false
    }
}
