//! The lifecycle of one execution.

pub mod request;

use std::sync::atomic::{AtomicBool, Ordering};

use lastword_api::{Execution, Stream};
use lastword_store::Store;
use uuid::Uuid;

pub use request::Request;

/// Takes records as they come, in their order.
pub trait Sink {
    /// The execution is durable and has this id. Called once, before anything else.
    fn accepted(&mut self, _id: Uuid) {}
    /// `time_ns`: wall clock, nanoseconds since 1970.
    fn record(&mut self, stream: Stream, time_ns: i64, seq: u64, bytes: &[u8]);
    /// So many bytes were read and dropped here.
    fn dropped(&mut self, stream: Stream, time_ns: i64, seq: u64, bytes: u64);
}

/// Asks a run for its end, from another thread.
#[derive(Debug, Default)]
pub struct Cancel {
    asked: AtomicBool,
}

impl Cancel {
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }
}

/// Why there is no execution to show for a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("running programs is not available yet in this version")]
    NotYet,
}

/// Runs a request to its end.
pub fn run(
    _store: &Store,
    _request: Request,
    _sink: &mut dyn Sink,
    _cancel: &Cancel,
) -> Result<Execution, Error> {
    Err(Error::NotYet)
}

/// Finishes executions whose runner is gone. Returns how many.
pub fn recover(_store: &Store) -> Result<u64, Error> {
    Ok(0)
}
