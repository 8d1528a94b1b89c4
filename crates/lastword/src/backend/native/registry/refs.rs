//! What references led to, so that a second run asks nobody.
//!
//! The file is a help, not a truth. Lost or damaged, it is as if it were empty, and one that can't be written costs a question.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lastword_image::Digest;
use serde::{Deserialize, Serialize};

use super::limits::{REFS_BYTES_MAX, REFS_MAX};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Refs {
    version: u32,
    /// Oldest first.
    refs: Vec<Ref>,
}

#[derive(Serialize, Deserialize)]
struct Ref {
    /// In full.
    reference: String,
    digest: Digest,
    /// When the registry said so.
    unix_seconds: u64,
}

/// What the reference led to when the registry was last asked.
pub(super) fn find(path: &Path, reference: &str) -> Option<Digest> {
    let refs = read(path).refs;
    refs.iter().rev().find(|known| known.reference == reference).map(|known| known.digest)
}

/// Notes what a reference has led to just now.
pub(super) fn note(path: &Path, reference: &str, digest: Digest) -> io::Result<()> {
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let lock = open(&beside(".lock"))?;
    lock.lock()?;
    let mut known = read(path);
    known.refs.retain(|known| known.reference != reference);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    known.refs.push(Ref { reference: reference.to_owned(), digest, unix_seconds: now.as_secs() });
    let over = known.refs.len().saturating_sub(REFS_MAX);
    known.refs.drain(..over);
    // The lock makes it ours alone. Not synced: what a power cut leaves of it is read as empty.
    let new = beside(".new");
    let mut file = open(&new)?;
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(&known)?)?;
    fs::rename(&new, path)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn read(path: &Path) -> Refs {
    let none = Refs { version: VERSION, refs: Vec::new() };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(REFS_BYTES_MAX + 1).read_to_end(&mut bytes));
    if read.is_err() || bytes.len() as u64 > REFS_BYTES_MAX {
        return none;
    }
    serde_json::from_slice(&bytes).ok().filter(|refs: &Refs| refs.version == VERSION).unwrap_or(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_found_and_the_oldest_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs.json");
        assert_eq!(find(&path, "a"), None);
        note(&path, "a", Digest::of(b"1")).unwrap();
        note(&path, "b", Digest::of(b"2")).unwrap();
        note(&path, "a", Digest::of(b"3")).unwrap();
        assert_eq!((find(&path, "a"), find(&path, "b")), (Some(Digest::of(b"3")), Some(Digest::of(b"2"))));
        assert_eq!(read(&path).refs.len(), 2);

        let many = (0..REFS_MAX).map(|at| Ref {
            reference: format!("n{at}"),
            digest: Digest::of(b""),
            unix_seconds: 0,
        });
        let full = Refs { version: VERSION, refs: many.collect() };
        fs::write(&path, serde_json::to_vec(&full).unwrap()).unwrap();
        note(&path, "new", Digest::of(b"4")).unwrap();
        assert_eq!((find(&path, "n0"), find(&path, "new")), (None, Some(Digest::of(b"4"))));
        assert_eq!(read(&path).refs.len(), REFS_MAX);
    }

    #[test]
    fn the_longest_references_fit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs.json");
        // Registry and repository have at most 255 bytes; then there is a tag or a digest.
        let text = |at| format!("{at:0400}");
        let many = (0..REFS_MAX).map(|at| Ref {
            reference: text(at),
            digest: Digest::of(b""),
            unix_seconds: u64::MAX,
        });
        let full = Refs { version: VERSION, refs: many.collect() };
        fs::write(&path, serde_json::to_vec(&full).unwrap()).unwrap();
        assert_eq!(find(&path, &text(0)), Some(Digest::of(b"")));
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refs.json");
        note(&path, "a", Digest::of(b"1")).unwrap();
        let good = fs::read(&path).unwrap();
        let other = String::from_utf8(good.clone()).unwrap().replace("\"version\":1", "\"version\":2");
        let huge = [good.clone(), vec![b' '; REFS_BYTES_MAX as usize]].concat();
        for bad in [&b""[..], b"{", b"[]", b"\xff", &good[..good.len() - 1], other.as_bytes(), &huge] {
            fs::write(&path, bad).unwrap();
            assert_eq!(find(&path, "a"), None);
            note(&path, "b", Digest::of(b"2")).unwrap();
            assert_eq!(find(&path, "b"), Some(Digest::of(b"2")));
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(find(&path, "a"), None);
        note(&path, "a", Digest::of(b"1")).expect_err("a directory in its place");
    }
}
