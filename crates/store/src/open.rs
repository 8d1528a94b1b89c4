//! Opens a data directory, and makes or remakes its index.

use std::path::Path;
use std::sync::Arc;

use crate::commit::Group;
use crate::disk::Disk;
use crate::index::{self, Index};
use crate::layout::{self, Layout};
use crate::recover::Shelf;
use crate::{Error, Store, segment};

pub(crate) fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<Store, Error> {
    let layout = Layout::new(dir);
    layout.prepare()?;
    if !layout::exists(&layout.index_damaged)? {
        match open_index(&layout, &disk) {
            Err(Error::IndexCorrupt { .. }) => {}
            result => return result,
        }
    }
    rebuild_damaged(&layout, &disk)
}

pub(crate) fn rebuild(dir: &Path, disk: Arc<dyn Disk>) -> Result<Store, Error> {
    let layout = Layout::new(dir);
    layout.prepare()?;
    // Should we be killed on the way, the next open goes on.
    std::fs::write(&layout.index_damaged, b"")
        .map_err(|error| Error::io("write", &layout.index_damaged, error))?;
    rebuild_damaged(&layout, &disk)
}

fn open_index(layout: &Layout, disk: &Arc<dyn Disk>) -> Result<Store, Error> {
    let in_use = layout.lock_shared()?;
    // Several processes that make the same index at once get in each other's way in SQLite.
    let is_new = std::fs::metadata(&layout.index).map_or(true, |metadata| metadata.len() == 0);
    let setup = if is_new { Some(layout.lock_setup()?) } else { None };
    let boot = index::boot_id();
    let index = Arc::new(Index::open(layout, Arc::clone(disk), segment::random()?, &boot)?);
    drop(setup);
    let shelf = Shelf { layout: layout.clone(), disk: Arc::clone(disk), index };
    // Before a row is made.
    shelf.check_boot(&boot)?;
    shelf.catch_up()?;
    Ok(Store { group: Group::new(shelf.clone()), shelf, _in_use: in_use })
}

/// One process does it, alone; who comes meanwhile waits and finds it done.
fn rebuild_damaged(layout: &Layout, disk: &Arc<dyn Disk>) -> Result<Store, Error> {
    let setup = layout.lock_setup()?;
    if layout::exists(&layout.index_damaged)? {
        let alone = layout.lock_exclusive()?.ok_or_else(|| Error::InUse { path: layout.dir.clone() })?;
        for suffix in ["-wal", "-shm", ""] {
            let mut path = layout.index.clone().into_os_string();
            path.push(suffix);
            remove(Path::new(&path))?;
        }
        // Made while it is empty and we still hold both locks; filled by the open below.
        Index::open(layout, Arc::clone(disk), segment::random()?, &index::boot_id())?;
        remove(&layout.index_damaged)?;
        drop(alone);
    }
    drop(setup);
    open_index(layout, disk)
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}
