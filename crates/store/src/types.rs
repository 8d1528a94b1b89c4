//! What goes in and out of the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The file that one run's transcript is written to. Whoever has `file`, or a descriptor duplicated or inherited
/// from it, holds the lock, and the run counts as alive.
#[derive(Debug)]
pub struct Spool {
    pub id: Uuid,
    /// Opened for reading and appending, locked with `flock(LOCK_EX)`.
    pub file: File,
    pub path: PathBuf,
    /// The FIFO for whoever wants to speak to the run, opened for both ways, not blocking: for the supervisor to read. Only with
    /// a new spool.
    pub control: Option<File>,
}

/// The file that takes one run's output files. Made before the start; [`crate::Store::finish`] keeps what is in it.
#[derive(Debug)]
pub struct Pack {
    pub id: Uuid,
    /// Opened for reading and writing, empty.
    pub file: File,
    pub path: PathBuf,
}

/// What executions are listed and filtered by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub status: String,
    pub reason: Option<String>,
    /// Whether the transcript is complete; `None` before the end.
    pub complete: Option<bool>,
    /// Nanoseconds since 1970.
    pub created_ns: i64,
    /// Nanoseconds since 1970.
    pub ended_ns: Option<i64>,
    pub backend: String,
    pub runtime: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whose it is; `None`: this machine's own users'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The batch that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Uuid>,
    /// What makes a request that is sent again the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RequestKey>,
    /// Higher ones go first while they wait. The store doesn't interpret it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A client's idempotency key, and what it came with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// As the client sent it.
    pub name: String,
    /// BLAKE3 of the request, in hex: another request under the same name is a mistake.
    pub digest: String,
}

/// A request on its way in.
#[derive(Debug)]
pub struct Waiting<'a> {
    pub id: Uuid,
    pub meta: &'a Meta,
    pub object: &'a [u8],
    /// What is needed to run it; the store doesn't look inside. Kept until the execution is removed.
    pub request: &'a [u8],
    /// What must not be kept longer than needed: gone, also from the disk, once the execution has left the queue.
    pub secret: Option<&'a [u8]>,
}

/// A place in the feed of events: behind one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor {
    /// Another one whenever events can have been numbered anew: an index that was made again, or a power cut.
    pub feed: u64,
    pub seq: u64,
}

/// One change of one execution's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Behind this event.
    pub cursor: Cursor,
    pub id: Uuid,
    /// When it became visible; nanoseconds since 1970.
    pub time_ns: i64,
    pub change: EventChange,
    /// As it is now, not as it was then. `None` once it was removed.
    pub meta: Option<Meta>,
    pub tenant: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventChange {
    /// The status it has from then on.
    Status {
        status: String,
        ended: bool,
    },
    Removed,
}

/// What can be seen of the spool of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    NoSpool,
    /// Somebody is at work on it: a supervisor, or who ends it.
    Held,
    /// Nobody is.
    Free,
}

/// What was found under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    pub id: Uuid,
    pub digest: String,
    pub created_ns: i64,
    /// The execution was removed since.
    pub removed: bool,
}

/// One execution as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Uuid,
    pub meta: Meta,
    /// Whether it has ended. The store doesn't interpret `meta.status`.
    pub ended: bool,
    /// Its transcript was found damaged when the index was made anew. `meta.complete` is false then, whatever
    /// `object` says.
    pub damaged: bool,
    /// The execution object as it was handed in: the store doesn't look inside.
    pub object: Vec<u8>,
}

/// All conditions have to hold; an empty one always does.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these.
    pub status: Vec<String>,
    /// All of these.
    pub labels: Vec<(String, String)>,
    /// `created_ns` at or after.
    pub since_ns: Option<i64>,
    /// `created_ns` before.
    pub until_ns: Option<i64>,
    /// At most so many; 0 is no limit.
    pub limit: usize,
    /// Older than this id: the last of the page before.
    pub before: Option<Uuid>,
    /// This tenant's only.
    pub tenant: Option<String>,
    pub batch: Option<Uuid>,
    /// None that has a label of this name.
    pub without_label: Option<String>,
}

/// An accepted execution without end that nobody works on.
#[derive(Debug)]
pub enum Orphan {
    /// Its spool, now locked by us: hand it to [`crate::Store::finish`].
    Spool(Spool),
    /// It has no spool: [`crate::Store::finish_without_spool`].
    Missing { id: Uuid, entry: Box<Entry> },
}

/// What reading one execution again has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every byte that the program wrote is here and matches the seal.
    pub complete: bool,
    /// `None` exactly if `complete`.
    pub why_incomplete: Option<String>,
    /// Output and dropped records read.
    pub records: u64,
    /// Bytes of the transcript as it is stored in frames.
    pub transcript_bytes: u64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// Output files that are here and match the seal, and their bytes.
    pub outputs: u64,
    pub output_bytes: u64,
    /// What contradicts what we had promised: damage on disk, or `complete` claimed and not true. A transcript that is
    /// incomplete and says so is no problem.
    pub problems: Vec<String>,
}

/// What reading all segments again has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentsReport {
    pub segments: u64,
    pub entries: u64,
    pub bytes: u64,
    /// Each names the segment file and the bytes in it.
    pub problems: Vec<String>,
    /// Leftovers of crashes that nobody was ever told of.
    pub notes: Vec<String>,
}
