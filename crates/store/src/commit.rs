//! Group commit: of the threads that want to write, one does it for all that wait.

use std::collections::VecDeque;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::Error;
use crate::entry::Batch;
use crate::index::{Change, Place, Progress};
use crate::limits::{GROUP_BYTES_MAX, SEGMENT_BYTES_TARGET};
use crate::recover::Shelf;
use crate::segment::Writer;
use crate::types::Meta;

/// One record on its way into a segment and the index.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: Uuid,
    pub(crate) batch: Batch,
    pub(crate) row: RowOf,
    /// Wait for it to be durable.
    pub(crate) sync: bool,
}

/// The row that the record makes, but for the place in the segment.
#[derive(Debug)]
pub(crate) enum RowOf {
    /// `request_bytes`: of the request entries before a waiting accept.
    Live {
        time_ns: i64,
        meta: Meta,
        object: Vec<u8>,
        accept: bool,
        request_bytes: Option<u64>,
    },
    Ended {
        time_ns: i64,
        meta: Meta,
        object: Vec<u8>,
        chunk_bytes: u64,
    },
    Removed,
}

impl RowOf {
    /// `start`: where the record's batch stands.
    pub(crate) fn placed(self, id: Uuid, segment: Uuid, start: u64) -> Change {
        match self {
            RowOf::Live { time_ns, meta, object, accept, request_bytes } => {
                let request = request_bytes.map(|bytes| Place { segment, start, at: start + bytes });
                Change::Live { id, time_ns, meta, object, accept, request }
            }
            RowOf::Ended { time_ns, meta, object, chunk_bytes } => {
                let place = Place { segment, start, at: start + chunk_bytes };
                Change::Ended { id, time_ns, meta, object, place, whole: true }
            }
            RowOf::Removed => Change::Removed { id },
        }
    }
}

type Outcome = Arc<Mutex<Option<Result<(), Error>>>>;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Job, Outcome)>,
    /// Some thread is writing.
    led: bool,
}

#[derive(Debug)]
pub(crate) struct Group {
    shelf: Shelf,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Only the leader takes this lock.
    writer: Mutex<Option<Writer>>,
    /// An index transaction has failed, and what it would have said stands in a segment.
    rows_missing: AtomicBool,
}

impl Group {
    pub(crate) fn new(shelf: Shelf) -> Self {
        Group {
            shelf,
            queue: Mutex::default(),
            changed: Condvar::new(),
            writer: Mutex::default(),
            rows_missing: AtomicBool::new(false),
        }
    }

    /// Returns when the job's row is visible, and before that durable if it asks for it.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Error> {
        self.submit_all(vec![job]).pop().unwrap_or(Ok(()))
    }

    /// [`Group::submit`] of several at once: they go into one group, as far as it takes them. Each has its own result.
    pub(crate) fn submit_all(&self, jobs: Vec<Job>) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(jobs.len());
        let outcomes: Vec<Outcome> = jobs.iter().map(|_| Outcome::default()).collect();
        let mut queue = relock(&self.queue);
        queue.waiting.extend(jobs.into_iter().zip(outcomes.iter().cloned()));
        loop {
            while let Some(result) = outcomes.get(results.len()).and_then(|outcome| relock(outcome).take()) {
                results.push(result);
            }
            if results.len() == outcomes.len() {
                return results;
            }
            if queue.led {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.led = true;
            let jobs = take_group(&mut queue.waiting);
            drop(queue);
            let led = Led {
                group: self,
                outcomes: jobs.iter().map(|(job, slot)| (job.id, slot.clone())).collect(),
            };
            led.done(self.write(jobs.into_iter().map(|(job, _)| job).collect()));
            queue = relock(&self.queue);
        }
    }

    /// After a failed index transaction: tries again to make the rows that it would have made.
    pub(crate) fn make_missing_rows(&self) -> Result<(), Error> {
        if self.rows_missing.load(Ordering::Acquire) {
            self.shelf.catch_up()?;
            self.rows_missing.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn write(&self, mut jobs: Vec<Job>) -> Result<(), Error> {
        let mut slot = relock(&self.writer);
        // Until all of it has worked, the segment is given up on the way out: who takes it next recovers it.
        let mut writer = match slot.take() {
            Some(writer) if writer.len() < SEGMENT_BYTES_TARGET => writer,
            full => {
                drop(full);
                self.shelf.acquire()?
            }
        };
        let mut start = writer.len();
        let mut batches: Vec<&mut Batch> = jobs.iter_mut().map(|job| &mut job.batch).collect();
        if let Err((error, cut)) = writer.append(&mut batches) {
            if cut {
                *slot = Some(writer);
            }
            return Err(error);
        }
        if jobs.iter().any(|job| job.sync) {
            writer.sync()?;
        }
        let mut changes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let bytes = job.batch.len() as u64;
            changes.push(job.row.placed(job.id, writer.id(), start));
            start += bytes;
        }
        let progress = Progress { segment: writer.id(), indexed: writer.synced(), closed: false };
        if let Err(error) = self.shelf.index.apply(&changes, Some(progress)) {
            self.rows_missing.store(true, Ordering::Release);
            return Err(error);
        }
        *slot = Some(writer);
        Ok(())
    }
}

fn take_group(waiting: &mut VecDeque<(Job, Outcome)>) -> Vec<(Job, Outcome)> {
    let mut bytes = 0;
    let mut jobs = Vec::new();
    while let Some((job, _)) = waiting.front() {
        bytes += job.batch.len();
        if bytes > GROUP_BYTES_MAX && !jobs.is_empty() {
            break;
        }
        jobs.extend(waiting.pop_front());
    }
    jobs
}

/// Leadership of one write. If the leader panics, its followers get an error instead of waiting for ever.
struct Led<'a> {
    group: &'a Group,
    outcomes: Vec<(Uuid, Outcome)>,
}

impl Led<'_> {
    fn done(mut self, result: Result<(), Error>) {
        let outcomes = std::mem::take(&mut self.outcomes);
        match result {
            Ok(()) => outcomes.iter().for_each(|(_, slot)| *relock(slot) = Some(Ok(()))),
            Err(error) => {
                for (id, slot) in &outcomes[1..] {
                    *relock(slot) = Some(Err(shared(&error, *id)));
                }
                *relock(&outcomes[0].1) = Some(Err(error));
            }
        }
    }
}

impl Drop for Led<'_> {
    fn drop(&mut self) {
        for (id, slot) in &self.outcomes {
            let why = "the thread that wrote for all has panicked".into();
            *relock(slot) = Some(Err(Error::Group { id: *id, why }));
        }
        relock(&self.group.queue).led = false;
        self.group.changed.notify_all();
    }
}

/// One failure, told to several.
fn shared(error: &Error, id: Uuid) -> Error {
    if let Error::StorageFull { path, .. } = error {
        return Error::StorageFull { path: path.clone(), source: None };
    }
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        why.push_str(&format!(": {error}"));
        source = error.source();
    }
    Error::Group { id, why }
}

fn relock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
