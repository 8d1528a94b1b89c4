//! The end of an execution: its spool's bytes go into a segment.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use uuid::Uuid;

use crate::commit::{Job, RowOf};
use crate::entry::{self, Batch, ENTRY_HEADER_BYTES, Kind, SEGMENT_HEADER_BYTES};
use crate::index::{Progress, State};
use crate::layout::now_ns;
use crate::limits::{CHUNK_BYTES_MAX, OBJECT_PAYLOAD_BYTES_MAX, SMALL_TRANSCRIPT_BYTES_MAX};
use crate::segment::Writer;
use crate::spool::{self, Taken};
use crate::types::{Meta, Spool};
use crate::{Error, Store};

impl Store {
    pub(crate) fn finish_spool(&self, spool: Spool, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        let waiting = match self.shelf.index.state(spool.id)? {
            State::Ended | State::Removed => return self.remove_spool(spool),
            State::Waiting => true,
            State::Live | State::Unknown => false,
        };
        // Before the end is: whoever sees it may ask for the files that it names.
        self.keep_pack(spool.id, FromStart { file: &spool.file, at: 0 })?;
        let metadata = spool.file.metadata().map_err(|error| Error::io("look at", &spool.path, error))?;
        let end = End { id: spool.id, time_ns: now_ns(), meta, object };
        if metadata.len() > SMALL_TRANSCRIPT_BYTES_MAX {
            self.finish_large(&spool, &end)?;
        } else {
            let mut batch = Batch::default();
            let length = each_chunk(&spool, |position, bytes| {
                batch.push(Kind::Chunk, spool.id, end.time_ns, position, bytes);
                Ok(())
            })?;
            let row = end.push(&mut batch, length)?;
            self.group.submit(Job { id: spool.id, batch, row, sync: true })?;
        }
        if waiting {
            self.remove_secret(spool.id)?;
        }
        self.remove_spool(spool)
    }

    /// In a segment of its own, piece by piece. That gets its name when it is whole, so a crash leaves a draft,
    /// which is removed, and nothing to recover.
    fn finish_large(&self, spool: &Spool, end: &End<'_>) -> Result<(), Error> {
        let disk = &*self.shelf.disk;
        let mut writer = Writer::draft(disk, &self.shelf.layout)?;
        let start = writer.len();
        let filled = fill(&mut writer, spool, end).and_then(|row| writer.sync().map(|()| row));
        let row = match filled {
            Ok(row) => row,
            Err(error) => {
                writer.discard(disk);
                return Err(error);
            }
        };
        writer.publish(disk, &self.shelf.layout)?;
        let progress = Progress { segment: writer.id(), indexed: writer.synced(), closed: false };
        self.shelf.index.apply(&[row.placed(end.id, writer.id(), start)], Some(progress))
    }

    pub(crate) fn finish_lost(&self, id: Uuid, meta: &Meta, object: &[u8]) -> Result<(), Error> {
        match self.shelf.index.state(id)? {
            State::Ended | State::Removed => return Ok(()),
            State::Waiting | State::Live | State::Unknown => {}
        }
        // The lock on a spool decides who ends an execution, so it needs one.
        match spool::create(&self.shelf.layout, id) {
            Ok(spool) => self.finish_spool(spool, meta, object),
            Err(Error::Exists { .. }) => match spool::try_take(&self.shelf.layout, id)? {
                Taken::Locked(spool) => self.finish_spool(spool, meta, object),
                // Whoever has it, or just had it, is doing the same.
                Taken::Held | Taken::Gone => Ok(()),
            },
            Err(error) => Err(error),
        }
    }
}

fn fill(writer: &mut Writer, spool: &Spool, end: &End<'_>) -> Result<RowOf, Error> {
    let length = each_chunk(spool, |position, bytes| {
        let mut batch = Batch::default();
        batch.push(Kind::Chunk, spool.id, end.time_ns, position, bytes);
        writer.append(&mut [&mut batch]).map_err(|(error, _)| error)
    })?;
    let chunk_bytes = writer.len() - SEGMENT_HEADER_BYTES as u64;
    let mut batch = Batch::default();
    let row = end.push_behind(&mut batch, chunk_bytes, length)?;
    writer.append(&mut [&mut batch]).map_err(|(error, _)| error)?;
    Ok(row)
}

/// Hands out the spool's bytes in pieces, to its end. Returns their number.
fn each_chunk(spool: &Spool, mut on: impl FnMut(u64, &[u8]) -> Result<(), Error>) -> Result<u64, Error> {
    let mut piece = Vec::new();
    let mut position = 0;
    loop {
        piece.resize(CHUNK_BYTES_MAX, 0);
        let read = fill_from(&spool.file, &mut piece, position)
            .map_err(|error| Error::io("read", &spool.path, error))?;
        if read == 0 {
            return Ok(position);
        }
        on(position, &piece[..read])?;
        position += read as u64;
    }
}

/// Reads until the buffer is full or the file ends. By place: the descriptor's offset is shared with the supervisor.
fn fill_from(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a spool from its first byte, by place.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

struct End<'a> {
    id: Uuid,
    time_ns: i64,
    meta: &'a Meta,
    object: &'a [u8],
}

impl End<'_> {
    /// Behind the chunks that are all of the batch so far.
    fn push(&self, batch: &mut Batch, transcript_bytes: u64) -> Result<RowOf, Error> {
        self.push_behind(batch, batch.len() as u64, transcript_bytes)
    }

    fn push_behind(
        &self,
        batch: &mut Batch,
        chunk_bytes: u64,
        transcript_bytes: u64,
    ) -> Result<RowOf, Error> {
        let payload = entry::encode_state(self.meta, self.object, Some(chunk_bytes));
        check_size(self.id, &payload)?;
        batch.push(Kind::End, self.id, self.time_ns, transcript_bytes, &payload);
        let (meta, object) = (self.meta.clone(), self.object.to_vec());
        Ok(RowOf::Ended { time_ns: self.time_ns, meta, object, chunk_bytes })
    }
}

/// An accept or update.
pub(crate) fn live_job(kind: Kind, id: Uuid, time_ns: i64, meta: &Meta, object: &[u8]) -> Result<Job, Error> {
    let payload = entry::encode_state(meta, object, None);
    check_size(id, &payload)?;
    let mut batch = Batch::default();
    batch.push(kind, id, time_ns, 0, &payload);
    let (meta, object, accept) = (meta.clone(), object.to_vec(), kind == Kind::Accept);
    let row = RowOf::Live { time_ns, meta, object, accept, request_bytes: None };
    // An update, too: it may say that a program is about to be handed over, which must not be forgotten.
    Ok(Job { id, batch, row, sync: true })
}

pub(crate) fn tombstone_job(id: Uuid) -> Job {
    let mut batch = Batch::default();
    batch.push(Kind::Tombstone, id, now_ns(), 0, &[]);
    Job { id, batch, row: RowOf::Removed, sync: true }
}

pub(crate) fn check_size(id: Uuid, payload: &[u8]) -> Result<(), Error> {
    let (bytes, max) = (payload.len(), OBJECT_PAYLOAD_BYTES_MAX);
    // The header stores lengths of 32 bits.
    const { assert!(OBJECT_PAYLOAD_BYTES_MAX + ENTRY_HEADER_BYTES < u32::MAX as usize) };
    if bytes > max {
        return Err(Error::TooLarge { id, what: "object", bytes, max });
    }
    Ok(())
}
