//! What is on disk of a batch before its first row starts: `<data dir>/batches/FIRSTLINE-ID.jsonl`.
//!
//! The file says who the batch is. What became of its rows stands in the store alone: each execution carries the batch's id,
//! its row and the digest of its line as labels, durable with its accept and so before its program can run. So a crash can't
//! make the two disagree.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::limits::{JOURNAL_BYTES_MAX, LOCK_LOOK, LOCK_WAIT_MAX};
use super::rows::Digest;

const SUFFIX: &str = ".jsonl";
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("batch {id} is being worked on by another lastword process")]
    Busy { id: Uuid },
    #[error("there is no batch {id} in {}", dir.display())]
    Unknown { id: Uuid, dir: PathBuf },
    #[error("batch {id} was begun by a newer lastword")]
    Newer { id: Uuid },
}

/// BLAKE3 of all of an input, in hex, and its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Whole {
    pub(super) blake3: String,
    pub(super) bytes: u64,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Begun {
        version: u32,
        id: Uuid,
        /// The address of the server that runs it; none: this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
    },
    /// The whole input was read. A stream's digest is known only then.
    Input(Whole),
    /// Every row has its result.
    Finished { rows: u64 },
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: Uuid,
    pub(super) input: Option<Whole>,
    pub(super) finished: bool,
    pub(super) server: Option<String>,
    path: PathBuf,
}

/// A batch that is ours: nobody else works on it while this is held.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) id: Uuid,
    file: File,
    path: PathBuf,
}

impl Journal {
    /// A new batch, durable on return.
    pub(super) fn begin(
        dir: &Path,
        first: Digest,
        input: Option<Whole>,
        server: Option<String>,
    ) -> Result<Journal, Error> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { action, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make", dir))?;
        let id = Uuid::now_v7();
        let path = dir.join(format!("{}-{id}{SUFFIX}", first.hex()));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io("make", &path))?;
        if !lock(&file).map_err(io("lock", &path))? {
            return Err(Error::Busy { id });
        }
        let mut journal = Journal { id, file, path };
        let mut lines = line(&Event::Begun { version: VERSION, id, server });
        lines.extend(input.into_iter().flat_map(|whole| line(&Event::Input(whole))));
        journal.append(&lines)?;
        for made in [Some(dir), dir.parent()].into_iter().flatten() {
            File::open(made).and_then(|dir| dir.sync_all()).map_err(io("sync", made))?;
        }
        Ok(journal)
    }

    /// Takes a batch over.
    pub(super) fn take(known: &Known) -> Result<Journal, Error> {
        let io = |action| {
            let path = known.path.clone();
            move |source| Error::Io { action, path, source }
        };
        let file = OpenOptions::new().append(true).open(&known.path).map_err(io("open"))?;
        if !lock(&file).map_err(io("lock"))? {
            return Err(Error::Busy { id: known.id });
        }
        Ok(Journal { id: known.id, file, path: known.path.clone() })
    }

    /// The whole input was read.
    pub(super) fn input(&mut self, whole: Whole) -> Result<(), Error> {
        self.append(&line(&Event::Input(whole)))
    }

    /// Every row has its result.
    pub(super) fn finished(&mut self, rows: u64) -> Result<(), Error> {
        self.append(&line(&Event::Finished { rows }))
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_all());
        written.map_err(|source| Error::Io { action: "write", path: self.path.clone(), source })
    }
}

fn line(event: &Event) -> Vec<u8> {
    // A line end before it as well: the last writer may have been killed in the middle of its own line.
    let mut line = b"\n".to_vec();
    line.extend(serde_json::to_vec(event).unwrap_or_default());
    line.push(b'\n');
    line
}

/// Locks a file. False if another process holds it, and goes on to.
pub(super) fn lock(file: &File) -> io::Result<bool> {
    let begin = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < LOCK_WAIT_MAX => {
                std::thread::sleep(LOCK_LOOK);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Batches whose first row is this one, newest first.
pub(super) fn beginning_with(dir: &Path, first: Digest) -> Result<Vec<Known>, Error> {
    let prefix = format!("{}-", first.hex());
    let mut known = Vec::new();
    for (name, path) in names(dir)? {
        if name.starts_with(&prefix) {
            known.extend(read(&path)?);
        }
    }
    known.sort_by_key(|known| std::cmp::Reverse(known.id));
    Ok(known)
}

/// The batch of this id, and its first line.
pub(super) fn by_id(dir: &Path, id: Uuid) -> Result<(Known, Digest), Error> {
    let suffix = format!("-{id}{SUFFIX}");
    for (name, path) in names(dir)? {
        let first = name.strip_suffix(&suffix).and_then(Digest::from_hex);
        if let (Some(first), Some(known)) = (first, read(&path)?) {
            return Ok((known, first));
        }
    }
    Err(Error::Unknown { id, dir: dir.to_owned() })
}

fn names(dir: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let failed = |source| Error::Io { action: "list", path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && name.ends_with(SUFFIX)
        {
            names.push((name, entry.path()));
        }
    }
    Ok(names)
}

/// `None`: its maker died before it said anything, so no row of it was started.
fn read(path: &Path) -> Result<Option<Known>, Error> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(JOURNAL_BYTES_MAX).read_to_end(&mut text));
    read.map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    let mut known: Option<Known> = None;
    for line in text.split(|byte| *byte == b'\n') {
        // A line that can't be read is torn, or a newer version's.
        match (serde_json::from_slice(line), &mut known) {
            (Ok(Event::Begun { version, id, .. }), _) if version > VERSION => {
                return Err(Error::Newer { id });
            }
            (Ok(Event::Begun { id, server, .. }), None) => {
                known = Some(Known { id, input: None, finished: false, server, path: path.to_owned() });
            }
            (Ok(Event::Input(whole)), Some(known)) => known.input = Some(whole),
            (Ok(Event::Finished { .. }), Some(known)) => known.finished = true,
            _ => {}
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Whole {
        Whole { blake3: "ab".into(), bytes: 3 }
    }

    #[test]
    fn a_journal_is_found_by_its_first_line_and_by_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("batches");
        let (first, other) = (Digest::of(b"first"), Digest::of(b"other"));
        assert_eq!(beginning_with(&dir, first).unwrap(), []);
        let mut older = Journal::begin(&dir, first, None, None).unwrap();
        let newer = Journal::begin(&dir, first, Some(whole()), None).unwrap();
        Journal::begin(&dir, other, None, None).unwrap();
        older.input(whole()).unwrap();
        older.finished(7).unwrap();
        let known = beginning_with(&dir, first).unwrap();
        let ids: Vec<Uuid> = known.iter().map(|known| known.id).collect();
        assert_eq!(ids, [newer.id, older.id]);
        assert_eq!(known.iter().map(|known| known.finished).collect::<Vec<_>>(), [false, true]);
        assert!(known.iter().all(|known| known.input == Some(whole())));
        assert_eq!(by_id(&dir, older.id).unwrap(), (known[1].clone(), first));
        assert!(matches!(by_id(&dir, Uuid::nil()), Err(Error::Unknown { .. })));
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Digest::of(b"first");
        let held = Journal::begin(dir.path(), first, None, None).unwrap();
        let known = beginning_with(dir.path(), first).unwrap().remove(0);
        assert!(matches!(Journal::take(&known), Err(Error::Busy { .. })));
        drop(held);
        Journal::take(&known).unwrap();
    }

    #[test]
    fn torn_lines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let first = Digest::of(b"first");
        let journal = Journal::begin(dir.path(), first, None, None).unwrap();
        let text = std::fs::read(&journal.path).unwrap();
        drop(journal);
        for cut in 0..text.len() - 1 {
            let path = dir.path().join(format!("{}-{}{SUFFIX}", first.hex(), Uuid::nil()));
            std::fs::write(&path, &text[..cut]).unwrap();
            assert_eq!(read(&path).unwrap(), None, "{cut}");
        }
        let known = beginning_with(dir.path(), first).unwrap().remove(0);
        let mut again = Journal::take(&known).unwrap();
        again.file.write_all(b"{\"finis").unwrap();
        again.finished(1).unwrap();
        assert!(beginning_with(dir.path(), first).unwrap()[0].finished);
    }
}
