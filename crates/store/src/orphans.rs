//! Executions that were accepted and that nobody works on any more.
//!
//! The order of the looks is what makes this safe; see the table in `docs/spec/store.md`, Recovery. A dead
//! process wrote its last entry before its spool's lock became free, so whatever we find in segments and
//! index *after* we got that lock is all there will ever be.

use std::io::{Read, Seek};

use lastword_frame::verify::{Tail, Verifier};

use crate::index::State;
use crate::layout;
use crate::limits::UNSTARTED_BYTES_MAX;
use crate::spool::{self, Taken};
use crate::types::{Orphan, Spool};
use crate::{Error, Store};

impl Store {
    pub(crate) fn find_orphans(&self) -> Result<Vec<Orphan>, Error> {
        let layout = &self.shelf.layout;
        spool::tidy(layout)?;
        // Before the spools: one that is not here now may belong to a run that begins meanwhile, and has no pack yet.
        let packs = self.odd_packs()?;
        let mut free = Vec::new();
        for id in spool::ids(layout)? {
            // One that can't be opened, because another user ran it, must not hide the others. `verify_segments` names it.
            if let Ok(Taken::Locked(spool)) = spool::try_take(layout, id) {
                free.push(spool);
            }
        }
        let secrets = self.secrets()?;
        // The row is read before its spool is looked for and again after: a spool goes only after its end has a row.
        let mut missing = Vec::new();
        for id in self.shelf.index.not_ended()? {
            if !layout::exists(&layout.spool(id))? {
                missing.push(id);
            }
        }
        self.shelf.tidy()?;
        self.shelf.catch_up()?;
        if free.is_empty() && missing.is_empty() && packs.is_empty() && secrets.is_empty() {
            return Ok(Vec::new());
        }
        let unindexed = self.shelf.unindexed()?;
        let mut orphans = Vec::new();
        for spool in free {
            match (self.shelf.index.state(spool.id)?, unindexed.get(&spool.id)) {
                (State::Ended | State::Removed, _) => self.remove_spool(spool)?,
                // Its end, or its accept, is about to get its row.
                (State::Live, Some(true)) | (State::Waiting | State::Unknown, Some(_)) => {}
                (State::Waiting, None) => self.give_up(spool)?,
                (State::Live, _) => orphans.push(Orphan::Spool(spool)),
                (State::Unknown, None) => self.remove_if_never_started(spool)?,
            }
        }
        self.sweep_packs(&packs, |id| unindexed.contains_key(&id))?;
        self.sweep_secrets(secrets, |id| unindexed.contains_key(&id))?;
        for id in missing {
            let Some((entry, None)) = self.shelf.index.get(id)? else { continue };
            if unindexed.get(&id) != Some(&true) && !layout::exists(&layout.spool(id))? {
                orphans.push(Orphan::Missing { id, entry: Box::new(entry) });
            }
        }
        Ok(orphans)
    }

    /// The spool, now ours, of an execution that still waits: it was given up before its program was handed over. The
    /// pack goes first, while the lock keeps others from making a new one.
    pub(crate) fn give_up(&self, spool: Spool) -> Result<(), Error> {
        self.remove_open_pack(spool.id)?;
        self.remove_spool(spool)
    }

    fn remove_if_never_started(&self, spool: Spool) -> Result<(), Error> {
        if never_started(&spool)? { self.remove_spool(spool) } else { Ok(()) }
    }

    /// Unlinks it while its lock is held.
    pub(crate) fn remove_spool(&self, spool: Spool) -> Result<(), Error> {
        self.remove_beside(spool.id)?;
        match self.shelf.disk.remove(&spool.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &spool.path, error))
            }
            _ => Ok(()),
        }
    }
}

/// A program is started after its accept is durable, and the start is noted first. So a spool without a record and without
/// that note is of a run that was never accepted, however far its sandbox had come. One that has the note belonged to an
/// execution whose record was lost: it stays, and `verify_segments` names it.
pub(crate) fn never_started(spool: &Spool) -> Result<bool, Error> {
    let failed = |error| Error::io("read", &spool.path, error);
    let mut bytes = Vec::new();
    let mut file = &spool.file;
    file.rewind().map_err(failed)?;
    file.take(UNSTARTED_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > UNSTARTED_BYTES_MAX {
        return Ok(false);
    }
    let mut verifier = Verifier::new();
    verifier.push(&bytes);
    let report = verifier.finish();
    Ok(report.started.is_none() && report.records == 0 && report.tail != Tail::Damaged)
}
