//! Transcripts and executions on disk.
//!
//! A run writes its transcript to a spool that nobody else writes. When it has ended, the spool's bytes go,
//! unchanged, with the execution's object into an append-only checksummed segment; that is synced; then a row
//! in the index makes the end visible; then the spool is removed. The index is SQLite and holds nothing that
//! can't be rebuilt from the segments. Layout, bytes, locks and crash cases: `docs/spec/store.md`.
//!
//! Several processes may use one data directory at a time, and any of them may be killed at any time.
#![forbid(unsafe_code)]

mod commit;
pub mod disk;
mod entry;
mod error;
mod finish;
mod index;
mod layout;
pub mod limits;
mod open;
mod orphans;
mod pack;
mod recover;
mod scan;
mod segment;
mod spool;
mod transcript;
mod types;
mod verify;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::commit::Group;
use crate::disk::{Disk, RealDisk};
use crate::entry::Kind;
use crate::index::State;
use crate::limits::AMBIGUOUS_SHOWN_MAX;
use crate::recover::Shelf;

pub use error::Error;
pub use pack::{OutputReader, Outputs};
pub use transcript::Transcript;
pub use types::{Entry, Filter, Meta, Orphan, Pack, SegmentsReport, Spool, Verdict};

/// A data directory, open. `Send + Sync`; threads that write at the same time share one sync.
#[derive(Debug)]
pub struct Store {
    shelf: Shelf,
    group: Group,
    /// While this is held, nobody deletes the index under us.
    _in_use: File,
}

impl Store {
    /// Opens a data directory, and makes it if it is not there. Brings the index up to the segments; rebuilds it
    /// when it is missing or damaged.
    pub fn open(dir: &Path) -> Result<Store, Error> {
        Store::open_on(dir, Arc::new(RealDisk))
    }

    /// [`Store::open`] with the segments on another kind of disk.
    pub fn open_on(dir: &Path, disk: Arc<dyn Disk>) -> Result<Store, Error> {
        open::open(dir, disk)
    }

    /// Throws the index away and makes it anew from the segments. Refused with [`Error::InUse`] while other
    /// processes have the store open.
    pub fn rebuild_index(dir: &Path) -> Result<Store, Error> {
        open::rebuild(dir, Arc::new(RealDisk))
    }

    /// Makes an execution's spool, locked. Before [`Store::accept`].
    pub fn create_spool(&self, id: Uuid) -> Result<Spool, Error> {
        spool::create(&self.shelf.layout, id)
    }

    /// Makes the file that takes an execution's output files; for a supervisor to fill and to sync before it seals. After
    /// [`Store::create_spool`], before the start. Needs no care later: [`Store::finish`] keeps it if the seal names files
    /// in it, else removes it, and what is left of an execution that was never accepted goes with its spool.
    pub fn create_pack(&self, id: Uuid) -> Result<Pack, Error> {
        self.make_pack(id)
    }

    /// Returns when the execution is durable and visible. [`Error::Exists`] if there is, or was, one of this id.
    pub fn accept(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        if self.shelf.index.state(id)? != State::Unknown {
            return Err(Error::Exists { id });
        }
        self.group.submit(finish::live_job(Kind::Accept, id, meta, object)?)
    }

    /// Durable and visible on return. Ignored after the end.
    pub fn update(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        match self.shelf.index.state(id)? {
            State::Live => self.group.submit(finish::live_job(Kind::Update, id, meta, object)?),
            State::Ended | State::Removed => Ok(()),
            State::Unknown => Err(Error::NotFound { id }),
        }
    }

    /// Moves the spool's bytes and the end into a segment; returns when they are durable and visible, and the
    /// spool is removed. The output files that the seal names are durable before that. Already ended: `Ok`, and the first end stays.
    ///
    /// On an error the spool stays on disk, unlocked: it is an orphan until someone ends it.
    pub fn finish(&self, spool: Spool, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        self.finish_spool(spool, meta, object)
    }

    /// The end of an execution whose spool is gone ([`Orphan::Missing`]), with an empty transcript. `Ok` also when
    /// someone else has ended it, or is at it right now.
    pub fn finish_without_spool(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        self.finish_lost(id, meta, object)
    }

    pub fn get(&self, id: Uuid) -> Result<Option<Entry>, Error> {
        Ok(self.shelf.index.get(id)?.map(|(entry, _)| entry))
    }

    /// Newest first, by id.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Entry>, Error> {
        self.shelf.index.list(filter)
    }

    /// All ids, newest first.
    pub fn ids(&self) -> Result<Vec<Uuid>, Error> {
        self.shelf.index.ids()
    }

    /// A full id, with or without dashes, or the beginning of exactly one.
    pub fn resolve(&self, prefix: &str) -> Result<Uuid, Error> {
        let digits: String = prefix.chars().filter(|c| *c != '-').collect();
        let bad = || Error::BadPrefix { prefix: prefix.to_owned() };
        if digits.is_empty() || digits.len() > 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let bound = |fill: &str| {
            let full = format!("{digits}{}", fill.repeat(32 - digits.len()));
            Uuid::try_parse(&full).map_err(|_| bad())
        };
        let found = self.shelf.index.ids_between(bound("0")?, bound("f")?, AMBIGUOUS_SHOWN_MAX)?;
        match found[..] {
            [] => Err(Error::NoMatch { prefix: prefix.to_owned() }),
            [only] => Ok(only),
            _ => Err(Error::Ambiguous { prefix: prefix.to_owned(), candidates: found }),
        }
    }

    /// The transcript's bytes: from its segment when it has ended, else what the spool holds, and goes on to hold
    /// when it is read again.
    pub fn transcript(&self, id: Uuid) -> Result<Transcript, Error> {
        Transcript::open(&self.shelf, id)
    }

    /// The output files of an ended execution. [`Error::NotEnded`] while it runs.
    pub fn outputs(&self, id: Uuid) -> Result<Outputs, Error> {
        self.read_outputs(id)
    }

    /// Removes an ended execution, durably. [`Error::NotEnded`] while it runs.
    pub fn remove(&self, id: Uuid) -> Result<(), Error> {
        let place = transcript::place_of(&self.shelf.index, id)?;
        self.put_pack_aside(id)?;
        self.group.submit(finish::tombstone_job(id))?;
        transcript::punch(&self.shelf, place);
        self.remove_pack(id)
    }

    /// Accepted executions that have not ended and that nobody works on. Each comes with its spool's lock, held until
    /// it is dropped. Removes leftover spools on the way.
    pub fn orphans(&self) -> Result<Vec<Orphan>, Error> {
        self.find_orphans()
    }

    /// Waits, as long as it takes, until nobody works on an execution that has not ended, and takes its spool: hand it to
    /// [`Store::finish`]. `None`: it has none any more, because somebody else has ended it or it is lost.
    pub fn wait_for_spool(&self, id: Uuid) -> Result<Option<Spool>, Error> {
        spool::wait_and_take(&self.shelf.layout, id)
    }

    /// Executions with an entry on disk that the index doesn't show yet: whoever holds their segment is about to make it
    /// visible. Normally nobody has been told of them; after a power cut, while another process is at recovery, somebody
    /// may have been.
    pub fn unindexed(&self) -> Result<Vec<Uuid>, Error> {
        Ok(self.shelf.unindexed()?.into_keys().collect())
    }

    /// Reads everything of one execution again: checksums, the order of its chunks, its seal, and whether what is
    /// claimed of it holds. Damage is a problem in the verdict, not an error.
    pub fn verify(&self, id: Uuid) -> Result<Verdict, Error> {
        self.verify_one(id)
    }

    /// Reads all segments again, also what no execution refers to. Not the seals: [`Store::verify`] of each of
    /// [`Store::ids`] does that.
    pub fn verify_segments(&self) -> Result<SegmentsReport, Error> {
        self.verify_all_segments()
    }
}
