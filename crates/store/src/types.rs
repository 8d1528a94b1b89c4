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
}

/// An accepted execution without end that nobody works on.
#[derive(Debug)]
pub enum Orphan {
    /// Its spool, now locked by us: hand it to [`crate::Store::finish`].
    Spool(Spool),
    /// It has no spool: [`crate::Store::finish_without_spool`].
    Missing { id: Uuid, entry: Entry },
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
