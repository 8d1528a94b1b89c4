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
mod control;
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
mod queue;
mod recover;
mod scan;
mod secret;
mod segment;
mod sight;
mod spool;
mod stdin;
mod transcript;
mod types;
mod verify;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
pub use types::{
    Cursor, Entry, Event, EventChange, Filter, KeyUse, Meta, Orphan, Pack, RequestKey, SegmentsReport, Sight,
    Spool, Verdict, Waiting,
};

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
        control::add(&self.shelf.layout, spool::create(&self.shelf.layout, id)?)
    }

    /// Empties the spool of an execution whose program was surely not started, for another start. Its lock stays held throughout.
    pub fn renew_spool(&self, spool: Spool) -> Result<Spool, Error> {
        self.remove_open_pack(spool.id)?;
        spool.file.set_len(0).map_err(|error| Error::io("empty", &spool.path, error))?;
        control::add(&self.shelf.layout, spool)
    }

    /// Removes the spool of an execution whose program was surely not started. What can't be removed is left to
    /// [`Store::orphans`].
    pub fn discard_spool(&self, spool: &Spool) {
        let _ = self.remove_beside(spool.id);
        let _ = std::fs::remove_file(&spool.path);
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
        self.group.submit(finish::live_job(Kind::Accept, id, layout::now_ns(), meta, object)?)
    }

    /// Durable and visible on return. Ignored after the end. The first one ends the waiting: from then on its secret is
    /// gone, and it is an orphan when nobody holds its spool.
    pub fn update(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        let (state, since_ns) = self.shelf.index.state_since(id)?;
        match state {
            State::Waiting | State::Live => {}
            State::Ended | State::Removed => return Ok(()),
            State::Unknown => return Err(Error::NotFound { id }),
        }
        // Recovery goes by the times of entries, and clocks are set back.
        let time_ns = layout::now_ns().max(since_ns.saturating_add(1));
        self.group.submit(finish::live_job(Kind::Update, id, time_ns, meta, object)?)?;
        if state == State::Waiting { self.remove_secret(id) } else { Ok(()) }
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

    /// Accepts executions that wait for their turn. When it returns, each is durable and visible, or has its error. One of
    /// these has no spool and is nobody's orphan before its first [`Store::update`]. They share one sync, as far as a group takes
    /// them ([`limits::GROUP_BYTES_MAX`]); [`Error::Exists`] and [`Error::TooLarge`] of one don't concern the others.
    pub fn accept_waiting(&self, waiting: &[Waiting<'_>]) -> Vec<Result<(), Error>> {
        self.accept_all(waiting)
    }

    /// All executions that wait, oldest first. Not one that may have been handed over: where another process is about to make
    /// rows, this looks again for up to [`limits::TAILS_WAIT_MAX`], then leaves out what those rows are of.
    pub fn waiting(&self) -> Result<Vec<(Uuid, Meta)>, Error> {
        self.list_waiting()
    }

    /// What [`Store::accept_waiting`] was given as the request. `None`: it came in another way, or there is no such execution.
    /// [`Error::Corrupt`] if it is not what was accepted.
    pub fn request(&self, id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        self.read_request(id)
    }

    /// The secret part of the request of an execution that waits. `None`: it has none, or it waits no more.
    pub fn secret(&self, id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        self.read_secret(id)
    }

    /// Which execution was made under an idempotency key, with a `created_ns` of `since_ns` or later. One older than
    /// [`limits::KEY_LIFE`] may be forgotten.
    pub fn by_key(&self, tenant: Option<&str>, name: &str, since_ns: i64) -> Result<Option<KeyUse>, Error> {
        // An accept whose row could not be made has brought its key all the same.
        self.group.make_missing_rows()?;
        self.shelf.index.by_key(tenant, name, since_ns)
    }

    /// How many executions of a batch have each status, by status.
    pub fn batch_counts(&self, batch: Uuid) -> Result<Vec<(String, u64)>, Error> {
        self.shelf.index.batch_counts(batch)
    }

    /// The next events behind a cursor, in order, at most `max`; `None`: from the oldest that is kept. Fewer than `max` only
    /// at the present end. [`Error::CursorGone`] if the place can't be found any more.
    pub fn events(&self, after: Option<Cursor>, max: usize) -> Result<Vec<Event>, Error> {
        self.shelf.index.events(after, max)
    }

    /// Behind the newest event; its `seq` is 0 before the first.
    pub fn newest_event(&self) -> Result<Cursor, Error> {
        self.shelf.index.newest_event()
    }

    /// Waits until there is an event behind `seen`, whichever process made it, or the time is over. Returns the newest one's
    /// place. At once if `seen` is of another feed.
    pub fn wait_for_event(&self, seen: Cursor, patience: Duration) -> Result<Cursor, Error> {
        self.shelf.index.wait_for_event(seen, patience)
    }

    /// Asks the supervisor of a run for its end, whoever has started it. False if none listens any more, or none does yet
    /// because the execution waits for its turn. While something is prepared for it, the request is kept for its start.
    pub fn ask_to_end(&self, id: Uuid) -> Result<bool, Error> {
        self.say_cancel(id)
    }

    /// Adds to the stdin of an execution whose stdin was left open, which the caller knows and we don't. `offset` is where
    /// `bytes` begin, counted from the first byte that was ever added: what the request itself brought doesn't count. What is
    /// there already is passed over and not compared, so the same call can be made again after an error, and after `close`.
    /// Durable on return. Returns how many bytes there are now.
    ///
    /// [`Error::StdinGap`], with what there is, if bytes would be missing between. [`Error::StdinClosed`] for new bytes behind
    /// a `close`, [`Error::TooLarge`] past [`limits::STDIN_BYTES_MAX`], [`Error::Ended`] behind the end. After any other error some
    /// of the bytes may be there.
    pub fn add_stdin(&self, id: Uuid, offset: u64, bytes: &[u8], close: bool) -> Result<u64, Error> {
        self.grow_stdin(id, offset, bytes, close)
    }

    /// The file that [`Store::add_stdin`] adds to, for a supervisor to read. It has come to its end when its mode lets nobody
    /// write to it. After [`Store::create_spool`].
    pub fn open_stdin(&self, id: Uuid) -> Result<File, Error> {
        self.open_growing_stdin(id)
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
        let request = self.shelf.index.request_place(id)?;
        self.put_pack_aside(id)?;
        self.group.submit(finish::tombstone_job(id))?;
        for place in std::iter::once(place).chain(request) {
            transcript::punch(&self.shelf, id, place);
        }
        self.remove_secret(id)?;
        self.remove_pack(id)
    }

    /// Accepted executions that have not ended and that nobody works on. Each comes with its spool's lock, held until
    /// it is dropped. Removes leftover spools on the way.
    pub fn orphans(&self) -> Result<Vec<Orphan>, Error> {
        let strays = self.strays()?;
        let orphans = self.find_orphans()?;
        // Behind it, because it has brought the index up.
        self.sweep_strays(&strays)?;
        Ok(orphans)
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
