//! The files of the cache, and when they are safe on disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, mkdir, syncfs, unlinkat};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::limits::RECORD_BYTES_MAX;
use crate::unpack::{Trash, names, open_directory};

/// Makes a directory for us alone, or opens the one that is there.
pub(super) fn make_directory(path: &Path) -> Result<OwnedFd, Error> {
    match mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(Error::io("make", path, error)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Error::io("open", path, error))
}

/// The first one writes it; all processes write the same.
pub(super) fn check_format(path: &Path, format: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::io("read", path, source);
    let found = match read_some(path, format.len() as u64 + 1) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return replace(path, format).map_err(|source| Error::io("write", path, source));
        }
        Err(error) => return Err(failed(error)),
    };
    if found == format {
        Ok(())
    } else {
        Err(Error::Cache { path: path.to_owned(), why: "it has an unknown format" })
    }
}

/// The last step before an entry is renamed into its place: its record, and then all of it to disk.
pub(super) fn finish(path: &Path, directory: impl AsFd, record: &impl Serialize) -> Result<(), Error> {
    let record_path = path.join("image.json");
    let failed = |source| Error::io("write", &record_path, source);
    unlinkat(&directory, "trash", AtFlags::REMOVEDIR).map_err(|error| Error::io("tidy up", path, error))?;
    let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
    let mut file = File::create_new(&record_path).map_err(failed)?;
    file.write_all(&bytes).map_err(failed)?;
    // One sync of the file system is far less than one of each of ten thousand files.
    syncfs(&directory).map_err(|error| Error::io("sync", path, error))
}

/// `None` if there is none, or one that nobody can read: it is made anew.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match read_some(path, RECORD_BYTES_MAX) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// At most so many bytes from the beginning.
pub(super) fn read_some(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whole or not at all, for all who read it. Not synced: what is lost in a power cut is made anew.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("new-{}-{:?}", std::process::id(), std::thread::current().id()));
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Removes a directory as `make` and `remove` of the cache leave it, at whatever step they stopped.
pub(super) fn remove(parent: impl AsFd, name: &str) -> io::Result<()> {
    let directory = match open_directory(&parent, name) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut trash = Trash::open(&directory, "trash")?;
    trash.clear()?;
    for inside in names(&directory)?.iter().filter(|inside| *inside != b"trash") {
        match unlinkat(&directory, &**inside, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR) => trash.remove(&directory, inside, &mut |_| ())?,
            Err(error) => return Err(error.into()),
        }
    }
    unlinkat(&directory, "trash", AtFlags::REMOVEDIR)?;
    Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
}
