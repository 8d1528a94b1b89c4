//! Executions that were accepted and that nobody works on any more.
//!
//! The order of the looks is what makes this safe; see the table in `docs/spec/store.md`, Recovery. A dead
//! process wrote its last entry before its spool's lock became free, so whatever we find in segments and
//! index *after* we got that lock is all there will ever be.

use crate::index::State;
use crate::layout;
use crate::spool::{self, Taken};
use crate::types::{Orphan, Spool};
use crate::{Error, Store};

impl Store {
    pub(crate) fn find_orphans(&self) -> Result<Vec<Orphan>, Error> {
        let layout = &self.shelf.layout;
        spool::tidy(layout)?;
        let mut free = Vec::new();
        for id in spool::ids(layout)? {
            // One that can't be opened, because another user ran it, must not hide the others. `verify_segments` names it.
            if let Ok(Taken::Locked(spool)) = spool::try_take(layout, id) {
                free.push(spool);
            }
        }
        // The row is read before its spool is looked for and again after: a spool goes only after its end has a row.
        let mut missing = Vec::new();
        for id in self.shelf.index.not_ended()? {
            if !layout::exists(&layout.spool(id))? {
                missing.push(id);
            }
        }
        self.shelf.tidy()?;
        self.shelf.catch_up()?;
        if free.is_empty() && missing.is_empty() {
            return Ok(Vec::new());
        }
        let unindexed = self.shelf.unindexed()?;
        let mut orphans = Vec::new();
        for spool in free {
            match (self.shelf.index.state(spool.id)?, unindexed.get(&spool.id)) {
                (State::Ended | State::Removed, _) => self.remove_spool(spool)?,
                // Its end, or its accept, is about to get its row.
                (State::Live, Some(true)) | (State::Unknown, Some(_)) => {}
                (State::Live, _) => orphans.push(Orphan::Spool(spool)),
                (State::Unknown, None) => self.remove_if_empty(spool)?,
            }
        }
        for id in missing {
            let Some((entry, None)) = self.shelf.index.get(id)? else { continue };
            if unindexed.get(&id) != Some(&true) && !layout::exists(&layout.spool(id))? {
                orphans.push(Orphan::Missing { id, entry });
            }
        }
        Ok(orphans)
    }

    /// A run starts after its accept is durable, so a spool that was never accepted is empty. One with bytes
    /// belonged to an execution whose record was lost: it stays, and `verify_segments` names it.
    fn remove_if_empty(&self, spool: Spool) -> Result<(), Error> {
        let metadata = spool.file.metadata().map_err(|error| Error::io("look at", &spool.path, error))?;
        if metadata.len() == 0 { self.remove_spool(spool) } else { Ok(()) }
    }

    /// Unlinks it while its lock is held.
    pub(crate) fn remove_spool(&self, spool: Spool) -> Result<(), Error> {
        match self.shelf.disk.remove(&spool.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &spool.path, error))
            }
            _ => Ok(()),
        }
    }
}
