//! Transcripts and executions on disk.
//!
//! A run writes its transcript to a spool that nobody else writes. When it has ended, the spool's bytes go,
//! unchanged, with the execution's object into an append-only checksummed segment; that is synced; then a row
//! in the index makes the end visible; then the spool is removed. The index is SQLite and holds nothing that
//! can't be rebuilt from the segments. Layout, bytes, locks and crash cases: `docs/spec/store.md`.
//!
//! Several processes may use one data directory at a time, and any of them may be killed at any time.
#![forbid(unsafe_code)]

mod error;
pub mod limits;
mod types;

use std::io::Read;
use std::path::Path;

use uuid::Uuid;

pub use error::Error;
pub use types::{Entry, Filter, Meta, Orphan, SegmentsReport, Spool, Verdict};

/// A data directory, open. `Send + Sync`; threads that write at the same time share one sync.
#[derive(Debug)]
pub struct Store {}

/// The bytes of one transcript, in order.
#[derive(Debug)]
pub struct Transcript {}

impl Read for Transcript {
    fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        unimplemented!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl Store {
    /// Opens a data directory, and makes it if it is not there. Brings the index up to the segments; rebuilds it
    /// when it is missing or damaged.
    pub fn open(dir: &Path) -> Result<Store, Error> {
        unimplemented!()
    }

    /// Throws the index away and makes it anew from the segments. Refused with [`Error::InUse`] while other
    /// processes have the store open.
    pub fn rebuild_index(dir: &Path) -> Result<Store, Error> {
        unimplemented!()
    }

    /// Makes an execution's spool, locked. Before [`Store::accept`].
    pub fn create_spool(&self, id: Uuid) -> Result<Spool, Error> {
        unimplemented!()
    }

    /// Returns when the execution is durable and visible.
    pub fn accept(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }

    /// A start: visible on return, durable with the next sync. Ignored after the end.
    pub fn update(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }

    /// Moves the spool's bytes and the end into a segment; returns when they are durable and visible, and the
    /// spool is removed. Already ended: `Ok`, and the first end stays.
    pub fn finish(&self, spool: Spool, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }

    /// The end of an execution whose spool is gone ([`Orphan::Missing`]), with an empty transcript.
    pub fn finish_without_spool(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }

    pub fn get(&self, id: Uuid) -> Result<Option<Entry>, Error> {
        unimplemented!()
    }

    /// Newest first, by id.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Entry>, Error> {
        unimplemented!()
    }

    /// All ids, newest first.
    pub fn ids(&self) -> Result<Vec<Uuid>, Error> {
        unimplemented!()
    }

    /// A full id, with or without dashes, or the beginning of exactly one.
    pub fn resolve(&self, prefix: &str) -> Result<Uuid, Error> {
        unimplemented!()
    }

    /// The transcript's bytes: from its segment when it has ended, else what the spool holds now.
    pub fn transcript(&self, id: Uuid) -> Result<Transcript, Error> {
        unimplemented!()
    }

    /// Removes an ended execution, durably. [`Error::NotEnded`] while it runs.
    pub fn remove(&self, id: Uuid) -> Result<(), Error> {
        unimplemented!()
    }

    /// Accepted executions that have not ended and that nobody works on. Removes leftover spools on the way.
    pub fn orphans(&self) -> Result<Vec<Orphan>, Error> {
        unimplemented!()
    }

    /// Reads everything of one execution again and checks it.
    pub fn verify(&self, id: Uuid) -> Result<Verdict, Error> {
        unimplemented!()
    }

    /// Reads all segments again, also what no execution refers to.
    pub fn verify_segments(&self) -> Result<SegmentsReport, Error> {
        unimplemented!()
    }
}
