//! Many executions for many users: a durable queue in front of the engine.
//!
//! Everything here may block on the disk; nothing here knows HTTP.

mod feed;
mod growth;
pub mod lifecycle;
pub mod limits;
pub mod metrics;
mod owners;
mod reconcile;
#[cfg(test)]
mod simulation;
mod submit;
mod work;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use lastword_api::{Execution, FieldError, NewExecution};
use lastword_store::Store;
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use self::lifecycle::{Action, Input};
use self::owners::Owners;
use crate::execution::{self, Cancel, Engine};

pub use feed::Feed;
pub use growth::Growth;
pub use metrics::Metrics;

/// How a service is run.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    /// Executions that run at a time.
    pub concurrency: NonZeroUsize,
    /// Executions that may wait.
    pub queue: usize,
    /// Take requests although limits can't be enforced here.
    pub allow_unenforced: bool,
}

/// One request on its way in.
pub struct Submission {
    pub new: NewExecution,
    pub tenant: Option<String>,
    /// The client's idempotency key.
    pub key: Option<String>,
    pub batch: Option<Uuid>,
}

#[derive(Debug)]
pub struct Submitted {
    pub execution: Execution,
    /// It was made by an earlier request with the same key.
    pub replayed: bool,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The machine can't do what was asked for strictly.
    #[error(transparent)]
    Refused(#[from] crate::backend::native::Refused),
    #[error("the idempotency key was used for another request, which made execution {id}")]
    KeyConflict { id: Uuid },
    #[error("the idempotency key made execution {id}, which was removed since")]
    KeyRemoved { id: Uuid },
    #[error("{waiting} executions are waiting, which is all that may")]
    QueueFull { waiting: usize, retry_after: Duration },
    #[error("the server is going down")]
    Draining { retry_after: Duration },
    #[error(transparent)]
    Store(#[from] lastword_store::Error),
    #[error("the request can't be written as JSON")]
    Encode(#[source] serde_json::Error),
    #[error(transparent)]
    Object(execution::Error),
}

/// Why something that exists can't be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] lastword_store::Error),
    #[error(transparent)]
    Execution(#[from] crate::execution::Error),
}

/// How full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub concurrency: usize,
    pub running: usize,
    pub queue: usize,
    pub waiting: usize,
}

/// A part of the service that must work for the whole to be of use, and why it doesn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `store`, `queue`, `backend:native`, `accepting`
    pub name: &'static str,
    pub problem: Option<String>,
}

/// The file that a server of a data directory holds locked.
const LOCK: &str = "serve.lock";

/// Threads share one. Its own threads live as long as it does, and end at their next look after it was dropped or drained;
/// nothing waits for them, since whatever they are at is safe to leave.
#[derive(Debug)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    me: Weak<Inner>,
    config: Config,
    engine: Arc<Engine>,
    feed: Feed,
    growth: Growth,
    owners: Mutex<Owners>,
    /// There may be a turn to take.
    turns: Condvar,
    /// How to stop those that are being worked on here.
    cancels: Mutex<HashMap<Uuid, Arc<Cancel>>>,
    /// Idempotency keys of requests on their way in.
    keys_at_work: Mutex<HashSet<(Option<String>, String)>>,
    key_free: Condvar,
    trouble: Mutex<Trouble>,
    pace: Mutex<Pace>,
    metrics: Metrics,
    draining: AtomicBool,
    /// Held while it lives: one server for one data directory.
    _lock: File,
}

/// What does not work at the moment.
#[derive(Debug, Default)]
struct Trouble {
    store: Option<String>,
    /// Nothing is started before.
    until: Option<Instant>,
}

/// How fast executions end.
#[derive(Debug, Default)]
struct Pace {
    /// Moving average.
    seconds_each: f64,
}

impl Service {
    /// Takes the data directory for itself, and goes on with what is in it: what waits will run, what runs is followed, what
    /// ended meanwhile gets its end.
    pub fn open(config: Config) -> anyhow::Result<Service> {
        let dir = &config.data_dir;
        let store =
            Store::open(dir).with_context(|| format!("cannot open the store in {}", dir.display()))?;
        let lock = lock_directory(&config.data_dir)?;
        let engine = Arc::new(Engine::new(store, &config.data_dir));
        let feed = Feed::new(Arc::clone(&engine))?;
        let growth = Growth::new(Arc::clone(&engine)).context("cannot watch files (inotify)")?;
        let owners = Owners::new(config.concurrency.get());
        let inner = Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            config,
            engine,
            feed,
            growth,
            owners: Mutex::new(owners),
            turns: Condvar::new(),
            cancels: Mutex::default(),
            keys_at_work: Mutex::default(),
            key_free: Condvar::new(),
            trouble: Mutex::default(),
            pace: Mutex::default(),
            metrics: Metrics::new(),
            draining: AtomicBool::new(false),
            _lock: lock,
        });
        inner.sweep()?;
        if let Err(error) = inner.reconcile() {
            // The others are taken up, and this one is tried again.
            inner.failed("look for executions that nobody owns", &error);
        }
        for _ in 0..inner.config.concurrency.get() {
            inner.spawn("worker", Inner::work)?;
        }
        inner.spawn("feed", Inner::read_feed)?;
        inner.spawn("growth", Inner::read_growth)?;
        inner.spawn("reconcile", Inner::keep_reconciling)?;
        Ok(Service(inner))
    }

    /// Takes requests; each has its own answer, in their order. What is taken is durable on return.
    pub fn submit(&self, submissions: Vec<Submission>) -> Vec<Result<Submitted, SubmitError>> {
        self.0.submit(submissions)
    }

    /// Asks for an execution's end. Nothing happens to one that has ended. One that was waiting has ended on return; for others
    /// this doesn't wait.
    pub fn cancel(&self, id: Uuid) -> Result<(), Error> {
        self.0.cancel(id)
    }

    pub fn store(&self) -> &Store {
        &self.0.engine.store
    }

    pub fn feed(&self) -> &Feed {
        &self.0.feed
    }

    pub fn growth(&self) -> &Growth {
        &self.0.growth
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub fn capacity(&self) -> Capacity {
        let owners = lock(&self.0.owners);
        Capacity {
            concurrency: self.0.config.concurrency.get(),
            running: owners.running(),
            queue: self.0.config.queue,
            waiting: owners.waiting(),
        }
    }

    /// All parts, with what is wrong with each. A full queue is not wrong.
    pub fn health(&self) -> Vec<Part> {
        let draining = self.0.draining.load(Ordering::SeqCst);
        let store = lock(&self.0.trouble).store.clone();
        vec![
            Part { name: "accepting", problem: draining.then(|| "the server is going down".into()) },
            Part { name: "store", problem: store },
        ]
    }

    /// Takes and starts nothing any more. What runs is left to its supervisors.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        lock(&self.0.owners).pause(true);
        self.0.turns.notify_all();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.drain();
    }
}

impl Inner {
    fn spawn(self: &Arc<Inner>, name: &str, run: fn(&Inner)) -> anyhow::Result<()> {
        let inner = Arc::clone(self);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&inner))
            .with_context(|| format!("cannot start the thread {name}"))?;
        Ok(())
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// An input for an execution, and all that follows from it, done here and now.
    fn take_input<'a>(&'a self, id: Uuid, input: Input, job: &mut work::Job<'a>) {
        let actions = lock(&self.owners).on(id, input);
        self.carry_out(id, actions, job);
    }

    fn carry_out<'a>(&'a self, id: Uuid, actions: &'static [Action], job: &mut work::Job<'a>) {
        let mut todo: VecDeque<Action> = actions.iter().copied().collect();
        let done = catch_unwind(AssertUnwindSafe(|| {
            while let Some(action) = todo.pop_front() {
                if let Some(input) = job.perform(action) {
                    todo.extend(lock(&self.owners).on(id, input));
                }
            }
        }));
        if done.is_err() {
            tracing::error!(%id, "work on an execution panicked; it is taken up again from what is on disk");
            // Its lock goes before anybody may look for it.
            *job = work::Job::new(self, id);
            lock(&self.owners).on(id, Input::Failed);
        }
        self.turns.notify_one();
    }

    fn cancel(&self, id: Uuid) -> Result<(), Error> {
        let Some(entry) = self.engine.store.get(id)? else {
            return Err(lastword_store::Error::NotFound { id }.into());
        };
        if entry.ended {
            return Ok(());
        }
        if !lock(&self.owners).owns(id) {
            self.reconcile_one(id)?;
        }
        let mut job = work::Job::new(self, id);
        let owned = lock(&self.owners).owns(id);
        if owned {
            self.take_input(id, Input::Cancel, &mut job);
            return job.failure().map_or(Ok(()), Err);
        }
        // Somebody else's, `lastword run` perhaps; or it has ended just now.
        self.engine.store.ask_to_end(id)?;
        Ok(())
    }

    fn read_feed(&self) {
        while !self.is_draining() {
            let turned = self.feed.turn(&mut |event| {
                let ended = !matches!(event.change, lastword_store::EventChange::Status { ended: false, .. });
                self.growth.changed(event.id, ended);
            });
            if let Err(error) = turned {
                self.failed("read the feed of events", &error);
                std::thread::sleep(limits::PAUSE_AFTER_FAILURE);
            }
        }
    }

    fn read_growth(&self) {
        while !self.is_draining() {
            if let Err(error) = self.growth.turn() {
                tracing::error!(%error, "cannot watch transcripts grow");
                std::thread::sleep(limits::PAUSE_AFTER_FAILURE);
            }
        }
    }

    /// Something of ours failed: nothing new is started for a moment, and health says why.
    fn failed(&self, action: &str, error: &dyn std::error::Error) {
        let error = work::chain(error);
        tracing::error!(%error, "cannot {action}");
        self.metrics.store_error();
        let mut trouble = lock(&self.trouble);
        trouble.store = Some(format!("cannot {action}: {error}"));
        trouble.until = Some(Instant::now() + limits::PAUSE_AFTER_FAILURE);
    }

    /// The store does what it is asked for.
    fn works(&self) {
        let mut trouble = lock(&self.trouble);
        if trouble.store.take().is_some() {
            tracing::info!("the store works again");
        }
        trouble.until = None;
    }
}

fn lock_directory(dir: &std::path::Path) -> anyhow::Result<File> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let began = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            // A child that a killed server was just starting holds the lock until its exec.
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < limits::LOCK_PATIENCE => {
                std::thread::sleep(limits::LOCK_PAUSE);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let advice = "end it first, or choose another data directory";
                return Err(anyhow!("another server uses {}: {advice}", dir.display()));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// What a panic left behind is as good as ever: each change under a lock is whole by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
