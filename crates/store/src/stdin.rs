//! A stdin that grows: a file beside the spool. It is closed when its mode lets nobody write to it, which no crash undoes.
//!
//! `docs/spec/store.md`, Control and stdin.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use uuid::Uuid;

use crate::index::State;
use crate::layout::Layout;
use crate::limits::STDIN_BYTES_MAX;
use crate::{Error, Store, control, disk};

pub(crate) const SUFFIX: &str = ".stdin";
const OPEN_MODE: u32 = 0o600;
const CLOSED_MODE: u32 = 0o400;
/// Asked of the mode itself, because root may write to anything.
const MAY_GROW: u32 = 0o222;

fn path_of(layout: &Layout, id: Uuid) -> PathBuf {
    layout.spools.join(format!("{id}{SUFFIX}"))
}

pub(crate) fn remove(layout: &Layout, id: Uuid) -> Result<(), Error> {
    control::remove_file(&path_of(layout, id))
}

/// Made by whoever comes first.
fn open(path: &Path, write: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .mode(OPEN_MODE)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CREATE).bits() as i32);
    let file = match options.write(write).open(path) {
        // Closed. An ordinary user can't open it for writing any more.
        Err(error) if write && error.kind() == io::ErrorKind::PermissionDenied => {
            options.write(false).open(path)?
        }
        opened => opened?,
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

fn is_closed(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.permissions().mode() & MAY_GROW == 0)
}

impl Store {
    /// For the supervisor to read, at places of its own.
    pub(crate) fn open_growing_stdin(&self, id: Uuid) -> Result<File, Error> {
        let path = path_of(&self.shelf.layout, id);
        open(&path, false).map_err(|error| Error::io("open", &path, error))
    }

    pub(crate) fn grow_stdin(&self, id: Uuid, offset: u64, bytes: &[u8], close: bool) -> Result<u64, Error> {
        self.may_have_stdin(id)?;
        let path = path_of(&self.shelf.layout, id);
        let file = open(&path, true).map_err(|error| Error::io("open", &path, error))?;
        // Its end removes the file once, so one that was made behind it is ours to remove.
        if let Err(error) = self.may_have_stdin(id) {
            remove(&self.shelf.layout, id)?;
            return Err(error);
        }
        let failed = |error| Error::io("lock", &path, error);
        disk::flock(&file, FlockOperation::LockExclusive).map_err(failed)?;
        let have = append(&file, &path, id, offset, bytes)?;
        let failed = |error| Error::io("sync", &path, error);
        // Also what was there already: whoever wrote it may have been killed before it was on disk.
        file.sync_data().map_err(failed)?;
        self.shelf.disk.sync_dir(&self.shelf.layout.spools).map_err(failed)?;
        if close && !is_closed(&file).map_err(failed)? {
            let closed = file.set_permissions(Permissions::from_mode(CLOSED_MODE));
            closed.and_then(|()| file.sync_all()).map_err(|error| Error::io("close", &path, error))?;
        }
        drop(file);
        // Nobody listens before the start; the start looks for itself.
        control::say_stdin(&self.shelf.layout, id)?;
        Ok(have)
    }

    fn may_have_stdin(&self, id: Uuid) -> Result<(), Error> {
        match self.shelf.index.state(id)? {
            State::Unknown | State::Removed => Err(Error::NotFound { id }),
            State::Ended => Err(Error::Ended { id }),
            _ => Ok(()),
        }
    }
}

/// Writes what is not there yet. Returns the file's length. The lock is held.
fn append(file: &File, path: &Path, id: Uuid, offset: u64, bytes: &[u8]) -> Result<u64, Error> {
    let have = file.metadata().map_err(|error| Error::io("look at", path, error))?.len();
    if offset > have {
        return Err(Error::StdinGap { id, have, offset });
    }
    let wanted = offset.saturating_add(bytes.len() as u64);
    if wanted <= have {
        return Ok(have);
    }
    if is_closed(file).map_err(|error| Error::io("look at", path, error))? {
        return Err(Error::StdinClosed { id, have });
    }
    if wanted > STDIN_BYTES_MAX as u64 {
        let bytes = usize::try_from(wanted).unwrap_or(usize::MAX);
        return Err(Error::TooLarge { id, what: "stdin", bytes, max: STDIN_BYTES_MAX });
    }
    // Below the length of `bytes`, because `wanted` is past `have`.
    let new = bytes.get((have - offset) as usize..).unwrap_or_default();
    // What a failed write leaves is there: it may have been read already. The caller goes on behind it.
    file.write_all_at(new, have).map_err(|error| Error::io("write to", path, error))?;
    Ok(wanted)
}
