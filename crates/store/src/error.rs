//! What can go wrong in the store, with the path or id it happened to. Sources are chained, not printed.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("no permission to {action} {}; check its owner, or choose another data directory", path.display())]
    Permission { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the data directory {} is not a directory; choose another one", path.display())]
    NotADirectory { path: PathBuf },
    /// Nothing was acknowledged. What a failed write left behind was cut off again.
    #[error("the disk that holds {} is full; free some space and try again", path.display())]
    StorageFull { path: PathBuf, source: Option<io::Error> },
    #[error("the data directory {} has format {found}, this build knows up to {known}; use a newer lastword", path.display())]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{} is damaged: {what}", path.display())]
    Corrupt { path: PathBuf, what: String },
    #[error("the index {} failed while it was asked to {action}", path.display())]
    Index { action: &'static str, path: PathBuf, source: rusqlite::Error },
    /// The next open rebuilds it.
    #[error("the index {} is damaged; run the command again and it is rebuilt from the segments", path.display())]
    IndexCorrupt { path: PathBuf, source: rusqlite::Error },
    #[error("the index of {} has to be rebuilt, but other lastword processes use it; try again when they have ended", path.display())]
    InUse { path: PathBuf },
    #[error("the data directory {} is of an older lastword that still uses it; try again when that has ended", path.display())]
    OlderInUse { path: PathBuf },
    #[error("no execution {id}")]
    NotFound { id: Uuid },
    #[error("no execution matches `{prefix}`")]
    NoMatch { prefix: String },
    #[error("`{prefix}` is not an execution id or the beginning of one")]
    BadPrefix { prefix: String },
    #[error("`{prefix}` matches more than one execution ({}, ...); give more of the id", list(candidates))]
    Ambiguous { prefix: String, candidates: Vec<Uuid> },
    #[error("execution {id} exists already")]
    Exists { id: Uuid },
    #[error("execution {id} has not ended")]
    NotEnded { id: Uuid },
    #[error("execution {id} has ended")]
    Ended { id: Uuid },
    #[error("execution {id} has no transcript: its spool is gone")]
    SpoolGone { id: Uuid },
    #[error("the {what} of execution {id} has {bytes} bytes, more than the {max} that the store takes")]
    TooLarge { id: Uuid, what: &'static str, bytes: usize, max: usize },
    #[error(
        "the feed of events has no place {seq} any more; read it from the beginning, or list the executions"
    )]
    CursorGone { seq: u64 },
    #[error("the stdin of execution {id} has {have} bytes: what begins at {offset} leaves a gap")]
    StdinGap { id: Uuid, have: u64, offset: u64 },
    #[error("the stdin of execution {id} was closed at byte {have}")]
    StdinClosed { id: Uuid, have: u64 },
    /// This entry was written with others by one thread for all, and that failed.
    #[error("the write of execution {id} failed together with others: {why}")]
    Group { id: Uuid, why: String },
}

fn list(ids: &[Uuid]) -> String {
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// Sorts an I/O error into the variants that a caller treats differently.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::StorageFull { path, source: Some(source) }
            }
            io::ErrorKind::PermissionDenied => Error::Permission { action, path, source },
            io::ErrorKind::NotADirectory => Error::NotADirectory { path },
            _ => Error::Io { action, path, source },
        }
    }
}
