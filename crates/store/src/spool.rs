//! Spools: one file per run that has not ended, locked while the run lives.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use uuid::Uuid;

use crate::Error;
use crate::disk;
use crate::layout::{self, Layout};
use crate::types::Spool;

/// How often a new spool is tried again when someone tidies its temporary file away before it is locked.
const CREATE_TRIES_MAX: usize = 4;

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A link in the spool directory is never followed: its target is not ours to lock, read or unlink.
    options.read(true).append(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

/// Makes a spool that is locked before it can be seen under its name.
pub(crate) fn create(layout: &Layout, id: Uuid) -> Result<Spool, Error> {
    let path = layout.spool(id);
    let failed = |error| Error::io("make", &path, error);
    for _ in 0..CREATE_TRIES_MAX {
        let new = layout.spools.join(format!(".{id}-{}.new", Uuid::now_v7().simple()));
        let file = open_options().create_new(true).open(&new).map_err(failed)?;
        if !disk::try_flock(&file).map_err(failed)? {
            continue;
        }
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, &new, cwd, &path, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Spool { id, file, path, control: None }),
            // Someone took us for dead between the two calls above.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                return Err(match error {
                    rustix::io::Errno::EXIST => Error::Exists { id },
                    error => failed(error.into()),
                });
            }
        }
    }
    Err(failed(io::Error::other("someone removes it each time")))
}

/// What [`try_take`] found.
#[derive(Debug)]
pub(crate) enum Taken {
    Locked(Spool),
    /// Someone else holds it.
    Held,
    Gone,
}

/// Locks a spool that nobody holds.
pub(crate) fn try_take(layout: &Layout, id: Uuid) -> Result<Taken, Error> {
    let path = layout.spool(id);
    let failed = |error| Error::io("open", &path, error);
    let file = match open_options().open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::Gone),
        Err(error) => return Err(failed(error)),
    };
    if !disk::try_flock(&file).map_err(failed)? {
        return Ok(Taken::Held);
    }
    // Its holder may have ended it and unlinked it between our open and our lock.
    let identity = disk::identity(&file).map_err(failed)?;
    if !disk::leads_to(&path, identity).map_err(failed)? {
        return Ok(Taken::Gone);
    }
    Ok(Taken::Locked(Spool { id, file, path, control: None }))
}

/// Waits until nobody holds a spool, and locks it. `None`: it is gone.
pub(crate) fn wait_and_take(layout: &Layout, id: Uuid) -> Result<Option<Spool>, Error> {
    let path = layout.spool(id);
    let failed = |error| Error::io("lock", &path, error);
    let file = match open_options().open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", &path, error)),
    };
    disk::flock(&file, rustix::fs::FlockOperation::LockExclusive).map_err(failed)?;
    // Whoever was faster may have ended it.
    let there = disk::leads_to(&path, disk::identity(&file).map_err(failed)?).map_err(failed)?;
    Ok(there.then_some(Spool { id, file, path, control: None }))
}

/// For reading only, as the follower of a live run does.
pub(crate) fn open_to_read(layout: &Layout, id: Uuid) -> Result<Option<File>, Error> {
    open_nofollow(&layout.spool(id))
}

/// `None`: it is not there.
pub(crate) fn open_nofollow(path: &Path) -> Result<Option<File>, Error> {
    match OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path, error)),
    }
}

pub(crate) fn ids(layout: &Layout) -> Result<Vec<Uuid>, Error> {
    layout::ids_in(&layout.spools, ".spool")
}

/// Removes spools whose makers died before they had a name.
pub(crate) fn tidy(layout: &Layout) -> Result<(), Error> {
    for path in layout::unfinished_in(&layout.spools)? {
        let Ok(file) = open_options().open(&path) else { continue };
        let free = disk::try_flock(&file)
            .and_then(|locked| Ok(locked && disk::leads_to(&path, disk::identity(&file)?)?))
            .map_err(|error| Error::io("lock", &path, error))?;
        if free {
            std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
    }
    Ok(())
}
