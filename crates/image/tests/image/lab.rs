//! A cache with things around it that must not change.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use lastword_image::{Cache, Error, Image, Limits, Source};
use tempfile::TempDir;

use crate::pack::Packed;

pub(crate) struct Lab {
    dir: TempDir,
    around: Snapshot,
}

/// What is at a path: its mode, and its content.
pub(crate) type Snapshot = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

pub(crate) fn snapshot(dir: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        for entry in fs::read_dir(dir.join(&below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            let full = dir.join(&path);
            let meta = full.symlink_metadata().unwrap();
            let content = if meta.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&full).unwrap().into_os_string().into_vec()
            } else {
                fs::read(&full).unwrap()
            };
            found.insert(path.as_os_str().as_bytes().to_vec(), (meta.mode(), content));
        }
    }
    found
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let around = dir.path().join("around");
        fs::create_dir_all(around.join("dir")).unwrap();
        fs::write(around.join("file"), "canary").unwrap();
        fs::write(around.join("dir/file"), "canary").unwrap();
        symlink("dir", around.join("link")).unwrap();
        let around = snapshot(&around);
        let lab = Lab { dir, around };
        lab.cache();
        lab
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn around(&self, name: &str) -> String {
        self.dir.path().join("around").join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::open(&self.dir.path().join("cache"), u64::MAX).unwrap()
    }

    pub(crate) fn unpack(&self, packed: &mut Packed) -> Result<Image, Error> {
        self.unpack_within(packed, Limits::default())
    }

    /// From above the cache nothing is reached, whatever the result; an error leaves nothing in the cache.
    pub(crate) fn unpack_within(&self, packed: &mut Packed, limits: Limits) -> Result<Image, Error> {
        let before = self.inventory();
        let result = self.cache().with_limits(limits).unpack(Source::Blobs { blobs: packed, digest: None });
        self.check(before, &result);
        result
    }

    pub(crate) fn unpack_path(&self, path: &Path, name: Option<&str>) -> Result<Image, Error> {
        let before = self.inventory();
        let result = self.cache().unpack(Source::Path { path, name });
        self.check(before, &result);
        result
    }

    /// What the cache holds. It isn't opened for that: opening tidies up.
    pub(crate) fn inventory(&self) -> [Vec<OsString>; 3] {
        ["entries", "locks", "tmp"].map(|part| self.left(part))
    }

    pub(crate) fn check(&self, before: [Vec<OsString>; 3], result: &Result<Image, Error>) {
        assert_eq!(snapshot(&self.dir.path().join("around")), self.around, "something outside has changed");
        if let Err(error) = result {
            assert_eq!(self.inventory(), before, "left behind after: {}", chain(error));
        }
    }

    /// Names in a directory of the cache.
    pub(crate) fn left(&self, part: &str) -> Vec<OsString> {
        let entries = fs::read_dir(self.dir.path().join("cache").join(part)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    /// Unpacks layers and gives what is in the tree.
    pub(crate) fn tree(&self, layers: &[Vec<u8>]) -> Snapshot {
        let image = self.unpack(&mut Packed::plain(layers)).map_err(|error| chain(&error)).unwrap();
        snapshot(&image.rootfs)
    }

    /// Unpacks layers, which must be refused, and gives the whole message.
    pub(crate) fn refusal(&self, layers: &[Vec<u8>]) -> String {
        chain(&self.unpack(&mut Packed::plain(layers)).expect_err("it was unpacked"))
    }
}

/// An error with all that caused it, as a user sees it.
pub(crate) fn chain(error: &Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    assert!(!text.chars().any(char::is_control), "an error with control characters: {text:?}");
    text
}

/// Names and contents of files, without directories.
pub(crate) fn files(tree: &Snapshot) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let plain = tree.iter().filter(|(_, (mode, _))| mode & 0o170_000 != 0o040_000);
    plain.map(|(path, (_, content))| (text(path), text(content))).collect()
}

#[track_caller]
pub(crate) fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
