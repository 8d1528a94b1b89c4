//! Rows between the reader and the workers: few, and in order.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::limits::{READ_AHEAD_BYTES_MAX, WAITING_BYTES_MAX};
use super::resume::Past;
use super::rows::Line;
use super::stop::Stop;

/// A row, and what became of it before.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) line: Line,
    pub(super) past: Option<Past>,
}

impl Job {
    fn len(&self) -> usize {
        self.line.bytes.as_ref().map_or(0, Vec::len)
    }
}

#[derive(Debug, Default)]
struct Inner {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Bytes of results that wait for the turn of their row.
    waiting: usize,
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Rows that may wait here.
    max: usize,
}

impl Queue {
    pub(super) fn new(max: usize) -> Queue {
        Queue { inner: Mutex::default(), changed: Condvar::new(), max }
    }

    /// Waits for room. False if the batch is to stop.
    pub(super) fn push(&self, job: Job, stop: &Stop) -> bool {
        let mut inner = self.lock();
        loop {
            if stop.is_asked() {
                return false;
            }
            let fits = inner.jobs.is_empty()
                || (inner.jobs.len() < self.max && inner.bytes + job.len() <= READ_AHEAD_BYTES_MAX);
            if fits && inner.waiting < WAITING_BYTES_MAX {
                inner.bytes += job.len();
                inner.jobs.push_back(job);
                self.changed.notify_all();
                return true;
            }
            inner = self.wait(inner);
        }
    }

    /// The next row. `None`: there is none any more, or the batch is to stop.
    pub(super) fn pop(&self, stop: &Stop) -> Option<Job> {
        let mut inner = self.lock();
        loop {
            if stop.is_asked() {
                return None;
            }
            if let Some(job) = inner.jobs.pop_front() {
                inner.bytes -= job.len();
                self.changed.notify_all();
                return Some(job);
            }
            if inner.closed {
                return None;
            }
            inner = self.wait(inner);
        }
    }

    /// No row comes any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// So many bytes of results wait for their turn.
    pub(super) fn waiting(&self, bytes: usize) {
        let mut inner = self.lock();
        let freed = bytes < inner.waiting;
        inner.waiting = bytes;
        if freed {
            self.changed.notify_all();
        }
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        // A stop has no way to wake a condition variable from its signal thread's side; a look now and then finds it.
        let waited = self.changed.wait_timeout(inner, LOOK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a stop may go unnoticed by those who wait for rows.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::batch::rows::Digest;

    fn job(row: u64, bytes: usize) -> Job {
        let line = Line { row, digest: Digest::of(b""), bytes: Some(vec![0; bytes]) };
        Job { line, past: None }
    }

    /// Whether a push would have to wait.
    fn waits(queue: &Queue, job: Job) -> bool {
        let stop = Stop::default();
        std::thread::scope(|scope| {
            let pushed = scope.spawn(|| queue.push(job, &stop));
            // That something doesn't happen can't be waited for otherwise.
            std::thread::sleep(LOOK / 4);
            let waits = !pushed.is_finished();
            stop.because(crate::cli::batch::stop::Why::NobodyReads);
            pushed.join().unwrap_or(false);
            waits
        })
    }

    #[test]
    fn rows_are_read_ahead_within_bounds() {
        let queue = Queue::new(2);
        let stop = Stop::default();
        assert!(queue.push(job(0, READ_AHEAD_BYTES_MAX + 1), &stop), "one may be long");
        assert!(waits(&queue, job(1, 0)), "bytes");
        assert_eq!(queue.pop(&stop).unwrap().line.row, 0);
        assert!(queue.push(job(1, 1), &stop) && queue.push(job(2, 1), &stop));
        assert!(waits(&queue, job(3, 1)), "rows");
        assert_eq!(queue.pop(&stop).unwrap().line.row, 1);
        queue.waiting(WAITING_BYTES_MAX);
        assert!(waits(&queue, job(3, 1)), "results");
        queue.waiting(0);
        assert!(queue.push(job(3, 1), &stop));
        queue.close();
        assert_eq!([2, 3].map(|_| queue.pop(&stop).unwrap().line.row), [2, 3]);
        assert!(queue.pop(&stop).is_none());
    }
}
