//! What need not be read again: the digest of a file that looks as it did, and what was chosen from an index.
//!
//! `known.json` is a help, not a truth. Lost or damaged, it is as if it were empty.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::entry::{read_some, replace};
use super::lock::lock;
use crate::digest::Digest;
use crate::error::Error;
use crate::limits::{KNOWN_AGE_NS_MIN, KNOWN_BYTES_MAX, KNOWN_MAX};

/// Oldest first.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Known(Vec<(String, Digest)>);

/// A file as it is now: a change of its content changes one of these, unless somebody sets the clock back.
pub(super) struct FileKey {
    pub(super) text: String,
    changed_ns: i128,
}

impl FileKey {
    /// Whether another change would show: a clock ticks every few milliseconds only.
    pub(super) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as i128 - self.changed_ns >= KNOWN_AGE_NS_MIN
    }
}

/// `None` if it is no file: a layout's index is small and read each time.
pub(super) fn file_key(path: &Path, name: Option<&str>) -> Result<Option<FileKey>, Error> {
    let failed = |source| Error::io("look at", path, source);
    let canonical = path.canonicalize().map_err(failed)?;
    let meta = canonical.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Ok(None);
    }
    let at = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let changed_ns = at(meta.ctime(), meta.ctime_nsec());
    let text = format!(
        "{}\n{}\n{} {} {} {} {changed_ns}",
        canonical.as_os_str().as_bytes().escape_ascii(),
        name.unwrap_or_default().escape_default(),
        meta.dev(),
        meta.ino(),
        meta.len(),
        at(meta.mtime(), meta.mtime_nsec()),
    );
    Ok(Some(FileKey { text, changed_ns }))
}

pub(super) fn index_key(index: &Digest) -> String {
    index.to_string()
}

impl Known {
    pub(super) fn read(dir: &Path) -> Self {
        let bytes = read_some(&dir.join("known.json"), KNOWN_BYTES_MAX).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub(super) fn find(&self, key: &str) -> Option<Digest> {
        self.0.iter().rev().find(|(known, _)| known == key).map(|(_, digest)| *digest)
    }

    pub(super) fn add(dir: &Path, keys: impl Iterator<Item = String>, digest: &Digest) -> Result<(), Error> {
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() {
            return Ok(());
        }
        let path = dir.join("known.json");
        let failed = |source| Error::io("write", &path, source);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let _lock = lock(directory, "known.lock", FlockOperation::LockExclusive).map_err(failed)?;
        let mut known = Known::read(dir);
        known.0.retain(|(known, _)| !keys.contains(known));
        known.0.extend(keys.into_iter().map(|key| (key, *digest)));
        let over = known.0.len().saturating_sub(KNOWN_MAX);
        known.0.drain(..over);
        let bytes = serde_json::to_vec(&known).map_err(|error| failed(error.into()))?;
        replace(&path, &bytes).map_err(failed)
    }
}
