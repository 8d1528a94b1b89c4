//! Takes over segments that nobody writes: cuts torn tails, brings the index up. The rules are numbered in
//! `docs/spec/store.md`, Recovery.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::Error;
use crate::disk::{self, Access, Disk, DiskFile};
use crate::entry::SEGMENT_HEADER_BYTES;
use crate::index::{Change, Index, Place, Progress};
use crate::layout::{self, Layout};
use crate::limits::SEGMENT_BYTES_TARGET;
use crate::scan::{self, Item, ScanError};
use crate::segment::{self, Reader, Writer};

/// Rows of one index transaction while a segment is scanned, by number and by bytes of their objects.
const APPLY_ROWS_MAX: usize = 1000;
const APPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What recovery needs of a store.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) layout: Layout,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) index: Arc<Index>,
}

impl Shelf {
    /// A segment to write to: one that nobody holds, or a new one.
    pub(crate) fn acquire(&self) -> Result<Writer, Error> {
        let mut open: Vec<Progress> = self.index.all_progress()?.into_values().collect();
        open.retain(|progress| !progress.closed && progress.indexed < SEGMENT_BYTES_TARGET);
        open.sort_unstable_by_key(|progress| std::cmp::Reverse(progress.segment));
        for progress in open {
            match self.take(progress.segment)? {
                Some(writer) if writer.len() < SEGMENT_BYTES_TARGET => return Ok(writer),
                _ => {}
            }
        }
        let writer = Writer::create(&*self.disk, &self.layout)?;
        // A segment that the index knows may have its torn tail cut.
        let indexed = writer.synced();
        self.index.apply(&[], Some(Progress { segment: writer.id(), indexed, closed: false }))?;
        Ok(writer)
    }

    /// Recovers every segment that is ahead of the index and that nobody holds.
    pub(crate) fn catch_up(&self) -> Result<(), Error> {
        let known = self.index.all_progress()?;
        for id in self.segments()? {
            if self.is_behind(&known, id)? {
                self.take(id)?;
            }
        }
        Ok(())
    }

    /// Makes a new feed where events may have been forgotten that somebody has seen: `docs/spec/store.md`, Events.
    pub(crate) fn check_boot(&self, boot: &str) -> Result<(), Error> {
        if !boot.is_empty() && self.index.noted_boot()? == boot {
            return Ok(());
        }
        let known = self.index.all_progress()?;
        let mut behind = false;
        for id in self.segments()? {
            behind |= self.is_behind(&known, id)?;
        }
        self.index.note_boot(boot, if behind { Some(segment::random()?) } else { None })
    }

    pub(crate) fn segments(&self) -> Result<Vec<Uuid>, Error> {
        layout::ids_in(&self.layout.segments, ".seg")
    }

    fn is_behind(&self, known: &HashMap<Uuid, Progress>, id: Uuid) -> Result<bool, Error> {
        let path = self.layout.segment(id);
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(match known.get(&id) {
                Some(progress) if progress.closed => metadata.len() > progress.indexed,
                Some(progress) => metadata.len() != progress.indexed,
                None => true,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("look at", &path, error)),
        }
    }

    /// Locks and recovers a segment. `None` if someone else holds it, or if it takes no more entries.
    fn take(&self, id: Uuid) -> Result<Option<Writer>, Error> {
        let path = self.layout.segment(id);
        let file = match self.disk.open(&path, Access::Write) {
            Ok(file) => file,
            // Rule 6: its rows stay, and `verify` reports them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.close(id, 0)?;
                return Ok(None);
            }
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        if !file.try_lock().map_err(|error| Error::io("lock", &path, error))? {
            return Ok(None);
        }
        // Only now: whoever held it before us may just have moved this on.
        let progress = self.index.progress(id)?;
        let len = file.size().map_err(|error| Error::io("look at", &path, error))?;
        let head = match segment::read_head(&*file, &path, id) {
            Ok(head) => head,
            Err(Error::Corrupt { .. }) => {
                self.close(id, len)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let from = progress.map_or(0, |progress| progress.indexed).max(SEGMENT_HEADER_BYTES as u64);
        let closed = progress.is_some_and(|progress| progress.closed);
        if len < from {
            self.close(id, from)?;
            return Ok(None);
        }
        let writer = |file, len| Writer::new(file, head, path.clone(), len);
        if len == from && progress.is_some() {
            return Ok((!closed).then(|| writer(file, len)));
        }
        // Others may see the rows as soon as they are there, so what they say has to be durable before.
        file.sync().map_err(|error| Error::io("sync", &path, error))?;
        if progress.is_none() {
            // Its maker may have been killed between giving it its name and making that durable.
            let segments = &self.layout.segments;
            self.disk.sync_dir(segments).map_err(|error| Error::io("sync", segments, error))?;
        }
        let mut rows = Rows {
            shelf: self,
            segment: id,
            known: progress.is_some(),
            changes: Vec::new(),
            bytes: 0,
            damaged: false,
        };
        let scanned = scan::scan(&*file, &head, from, len, &mut |item| rows.add(item));
        let scanned = scanned.map_err(|error| read_failed(&path, error))?;
        let torn = scanned.good_to < len;
        // Rules 4 and 5.
        if closed || rows.damaged || (torn && progress.is_none()) {
            rows.finish(Progress { segment: id, indexed: len, closed: true })?;
            return Ok(None);
        }
        rows.finish(Progress { segment: id, indexed: scanned.good_to, closed: false })?;
        if torn {
            // Rule 3.
            file.set_len(scanned.good_to).map_err(|error| Error::io("cut", &path, error))?;
            file.sync().map_err(|error| Error::io("sync", &path, error))?;
        }
        Ok(Some(writer(file, scanned.good_to)))
    }

    fn close(&self, segment: Uuid, indexed: u64) -> Result<(), Error> {
        self.index.apply(&[], Some(Progress { segment, indexed, closed: true }))
    }

    /// Executions with an entry that stands in a segment but not yet in the index: whoever holds that segment is
    /// about to bring it up. True if an end or a tombstone is among them.
    pub(crate) fn unindexed(&self) -> Result<BTreeMap<Uuid, bool>, Error> {
        let mut ids = BTreeMap::new();
        let known = self.index.all_progress()?;
        for id in self.segments()? {
            if !self.is_behind(&known, id)? {
                continue;
            }
            let from = known.get(&id).map_or(0, |progress| progress.indexed).max(SEGMENT_HEADER_BYTES as u64);
            let reader = match Reader::open(&*self.disk, &self.layout, id) {
                Ok(reader) => reader,
                Err(Error::Corrupt { .. }) => continue,
                Err(error) => return Err(error),
            };
            let to = reader.file.size().map_err(|error| Error::io("look at", &reader.path, error))?;
            let scanned = scan::scan(&*reader.file, &reader.head, from, to.max(from), &mut |item| {
                let (id, ended) = match item {
                    Item::State(state) => (state.id, false),
                    Item::Tombstone { id, .. } => (id, true),
                    Item::End(end) => (end.id, end.whole),
                    Item::Damage(_) => return Ok(()),
                };
                *ids.entry(id).or_default() |= ended;
                Ok(())
            });
            match scanned {
                // Its holder cut a failed append off while we read.
                Err(ScanError::Read(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                result => drop(result.map_err(|error| read_failed(&reader.path, error))?),
            }
        }
        Ok(ids)
    }

    /// Removes drafts of segments whose makers are dead.
    pub(crate) fn tidy(&self) -> Result<(), Error> {
        for path in layout::unfinished_in(&self.layout.segments)? {
            let Ok(file) = self.disk.open(&path, Access::Write) else { continue };
            remove_if_free(&*self.disk, &*file, &path).map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }
}

fn remove_if_free(disk: &dyn Disk, file: &dyn DiskFile, path: &Path) -> io::Result<()> {
    if file.try_lock()? && disk::leads_to(path, file.identity()?)? {
        disk.remove(path)?;
    }
    Ok(())
}

pub(crate) fn read_failed(path: &Path, error: ScanError) -> Error {
    match error {
        ScanError::Read(error) => Error::io("read", path, error),
        ScanError::Listener(error) => error,
    }
}

/// Turns scanned records into index transactions of bounded size.
struct Rows<'a> {
    shelf: &'a Shelf,
    segment: Uuid,
    /// The index knew the segment before.
    known: bool,
    changes: Vec<Change>,
    bytes: usize,
    damaged: bool,
}

impl Rows<'_> {
    fn add(&mut self, item: Item) -> Result<(), Error> {
        let to = match item {
            Item::State(state) => {
                // Rule 7.
                if state.whole() || !self.known {
                    self.bytes += state.object.len();
                    let scan::StateItem { id, time_ns, meta, object, accept, request, .. } = state;
                    let segment = self.segment;
                    let request = request.map(|found| Place { segment, start: found.start, at: found.at });
                    self.changes.push(Change::Live { id, time_ns, meta, object, accept, request });
                }
                state.to
            }
            Item::End(end) => {
                // Rule 7.
                let counts = end.whole || (!self.known && !layout::exists(&self.shelf.layout.spool(end.id))?);
                if counts {
                    self.bytes += end.object.len();
                    let place = Place { segment: self.segment, start: end.start, at: end.at };
                    let scan::EndItem { id, time_ns, meta, object, whole, .. } = end;
                    self.changes.push(Change::Ended { id, time_ns, meta, object, place, whole });
                }
                end.to
            }
            Item::Tombstone { id, to } => {
                self.changes.push(Change::Removed { id });
                to
            }
            Item::Damage(_) => {
                self.damaged = true;
                return Ok(());
            }
        };
        if self.changes.len() >= APPLY_ROWS_MAX || self.bytes >= APPLY_BYTES_MAX {
            self.flush(to)?;
        }
        Ok(())
    }

    /// `to` is the end of a record, and everything before it was added.
    fn flush(&mut self, to: u64) -> Result<(), Error> {
        // If we are killed behind this, the rest must be scanned under the same rules: damage stays known, and an
        // unknown segment unknown.
        let progress = Progress { segment: self.segment, indexed: to, closed: self.damaged };
        self.apply(self.known.then_some(progress))
    }

    /// The segment becomes known, and what was decided about it, in one transaction.
    fn finish(&mut self, progress: Progress) -> Result<(), Error> {
        self.apply(Some(progress))
    }

    fn apply(&mut self, progress: Option<Progress>) -> Result<(), Error> {
        self.shelf.index.apply(&self.changes, progress)?;
        self.changes.clear();
        self.bytes = 0;
        Ok(())
    }
}
