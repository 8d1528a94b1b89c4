//! Reads a segment from some place on, and tells good records from torn tails and damage.

use std::io;

use uuid::Uuid;

use crate::disk::DiskFile;
use crate::entry::{self, ENTRY_HEADER_BYTES, Head, Header, Kind};
use crate::limits::SCAN_WINDOW_BYTES;
use crate::types::Meta;

/// What a scan comes across, in order.
#[derive(Debug)]
pub(crate) enum Item {
    /// An accept or update.
    State(StateItem),
    End(EndItem),
    Tombstone {
        id: Uuid,
        to: u64,
    },
    /// Bytes that are no good, with a good record behind them.
    Damage(Damage),
}

#[derive(Debug)]
pub(crate) struct StateItem {
    pub(crate) id: Uuid,
    pub(crate) time_ns: i64,
    pub(crate) meta: Meta,
    pub(crate) object: Vec<u8>,
    pub(crate) to: u64,
    /// An accept, not an update.
    pub(crate) accept: bool,
    /// Of a waiting accept.
    pub(crate) request: Option<RequestItem>,
}

impl StateItem {
    /// Its request, if it has one, is there and good.
    pub(crate) fn whole(&self) -> bool {
        self.request.is_none_or(|request| request.whole)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestItem {
    /// Where its pieces begin, and where its accept stands.
    pub(crate) start: u64,
    pub(crate) at: u64,
    pub(crate) whole: bool,
}

#[derive(Debug)]
pub(crate) struct EndItem {
    pub(crate) id: Uuid,
    pub(crate) time_ns: i64,
    pub(crate) meta: Meta,
    pub(crate) object: Vec<u8>,
    /// Where its chunks begin, where the end entry itself begins, and where that ends.
    pub(crate) start: u64,
    pub(crate) at: u64,
    pub(crate) to: u64,
    /// All of its chunks are there and good.
    pub(crate) whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The record behind it was written when this was not yet synced: nobody was ever told of it.
    pub(crate) never_acknowledged: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Behind the last good record. Less than the file's length: the tail is torn.
    pub(crate) good_to: u64,
    pub(crate) entries: u64,
}

/// Pieces seen since the last record.
struct Run {
    id: Uuid,
    kind: Kind,
    start: u64,
    /// Where the next piece has to stand, and what it has to continue.
    to: u64,
    position: u64,
    whole: bool,
}

/// Scans `from..to`. `from` has to be the end of a record, or of the segment's header.
pub(crate) fn scan(
    file: &dyn DiskFile,
    head: &Head,
    from: u64,
    to: u64,
    on: &mut dyn FnMut(Item) -> Result<(), crate::Error>,
) -> Result<Scanned, ScanError> {
    let mut window = Window { file, end: to, at: 0, bytes: Vec::new() };
    let mut scanned = Scanned { good_to: from, entries: 0 };
    let mut run: Option<Run> = None;
    let mut bad: Vec<(u64, u64)> = Vec::new();
    let mut at = from;
    while at < to {
        let Some(header) = window.header(head, at)? else {
            let next = window.find(head, at + 1)?.unwrap_or(to);
            bad.push((at, next));
            run = None;
            at = next;
            continue;
        };
        let next = at + header.entry_bytes();
        let payload = window.get(at + ENTRY_HEADER_BYTES as u64, header.stored_bytes)?;
        let whole = header.payload_is_whole(payload);
        if header.kind.is_piece() {
            // The payload of a removed execution was punched out: that is no damage.
            if !whole && payload.iter().any(|byte| *byte != 0) {
                bad.push((at, next));
            }
            scanned.entries += u64::from(whole);
            run = Some(extend(run, &header, at, whole));
        } else {
            match record(&header, payload, at, run.take()) {
                Some(item) => {
                    for (from, to) in bad.drain(..) {
                        let never_acknowledged = header.synced <= from;
                        on(Item::Damage(Damage { from, to, never_acknowledged }))?;
                    }
                    scanned.entries += 1;
                    scanned.good_to = next;
                    on(item)?;
                }
                None => bad.push((at, next)),
            }
        }
        at = next;
    }
    Ok(scanned)
}

fn extend(run: Option<Run>, header: &Header, at: u64, whole: bool) -> Run {
    let length = header.raw_bytes() as u64;
    match run {
        Some(run)
            if (run.id, run.kind) == (header.id, header.kind)
                && run.to == at
                && run.position == header.position =>
        {
            Run {
                to: at + header.entry_bytes(),
                position: run.position + length,
                whole: run.whole && whole,
                ..run
            }
        }
        _ => Run {
            id: header.id,
            kind: header.kind,
            start: at,
            to: at + header.entry_bytes(),
            position: header.position + length,
            whole: whole && header.position == 0,
        },
    }
}

/// `None` if the payload is no good.
fn record(header: &Header, stored: &[u8], at: u64, run: Option<Run>) -> Option<Item> {
    let raw = header.unpack(stored).ok()?;
    let (id, time_ns, to) = (header.id, header.time_ns, at + header.entry_bytes());
    match header.kind {
        Kind::Accept | Kind::Update => {
            let (meta, object) = entry::decode_state(&raw)?;
            let accept = header.kind == Kind::Accept;
            Some(Item::State(StateItem { id, time_ns, meta, object, to, accept, request: None }))
        }
        Kind::Waiting => {
            let (piece_bytes, meta, object) = entry::decode_prefixed(&raw)?;
            let start = at.checked_sub(piece_bytes)?;
            let whole = run.is_some_and(|run| run.is_before(header, Kind::Request, start, at));
            let request = Some(RequestItem { start, at, whole });
            Some(Item::State(StateItem { id, time_ns, meta, object, to, accept: true, request }))
        }
        Kind::End => {
            let (piece_bytes, meta, object) = entry::decode_prefixed(&raw)?;
            let start = at.checked_sub(piece_bytes)?;
            let whole = match run {
                Some(run) if piece_bytes > 0 => run.is_before(header, Kind::Chunk, start, at),
                _ => piece_bytes == 0 && header.position == 0,
            };
            Some(Item::End(EndItem { id, time_ns, meta, object, start, at, to, whole }))
        }
        Kind::Tombstone => Some(Item::Tombstone { id, to }),
        Kind::Chunk | Kind::Request => None,
    }
}

impl Run {
    /// It is all that the record with this header says stands from `start` to `at`.
    fn is_before(&self, header: &Header, kind: Kind, start: u64, at: u64) -> bool {
        self.whole
            && (self.id, self.kind, self.position) == (header.id, kind, header.position)
            && (self.start, self.to) == (start, at)
    }
}

/// A scan ends early because of the disk, or because of who listens.
#[derive(Debug)]
pub(crate) enum ScanError {
    Read(io::Error),
    Listener(crate::Error),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        ScanError::Read(error)
    }
}

impl From<crate::Error> for ScanError {
    fn from(error: crate::Error) -> Self {
        ScanError::Listener(error)
    }
}

/// Reads ahead, so that small entries don't cost a call each.
struct Window<'a> {
    file: &'a dyn DiskFile,
    end: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The caller has checked that it lies before `end`.
    fn get(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let inside = at >= self.at && at + length as u64 <= self.at + self.bytes.len() as u64;
        if !inside {
            let ahead = (self.end - at).min(SCAN_WINDOW_BYTES.max(length) as u64) as usize;
            self.bytes.resize(ahead, 0);
            self.at = at;
            if let Err(error) = self.file.read_exact_at(&mut self.bytes, at) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let start = (at - self.at) as usize;
        Ok(&self.bytes[start..start + length])
    }

    /// The header of an entry that lies before `end` as a whole.
    fn header(&mut self, head: &Head, at: u64) -> io::Result<Option<Header>> {
        if self.end - at < ENTRY_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let header = Header::decode(self.get(at, ENTRY_HEADER_BYTES)?, head, at);
        Ok(header.filter(|header| at + header.entry_bytes() <= self.end))
    }

    /// The next place that has a header. The mark is random, so a program's output can't be taken for one.
    fn find(&mut self, head: &Head, mut at: u64) -> io::Result<Option<u64>> {
        while at + ENTRY_HEADER_BYTES as u64 <= self.end {
            let length = (self.end - at).min(SCAN_WINDOW_BYTES as u64) as usize;
            let hit = self.get(at, length)?.windows(head.mark.len()).position(|bytes| bytes == head.mark);
            match hit {
                Some(offset) => {
                    at += offset as u64;
                    if self.end - at >= ENTRY_HEADER_BYTES as u64 && self.header(head, at)?.is_some() {
                        return Ok(Some(at));
                    }
                    at += 1;
                }
                None => at += (length - head.mark.len() + 1) as u64,
            }
        }
        Ok(None)
    }
}
