//! Reads a transcript back, wherever it is.

use std::fs::File;
use std::io::{self, Read};

use uuid::Uuid;

use crate::Error;
use crate::entry::{self, ENTRY_HEADER_BYTES, Header, Kind};
use crate::index::{Index, Place};
use crate::limits::HAND_OVER_TRIES_MAX;
use crate::recover::Shelf;
use crate::segment::Reader;
use crate::spool;
use crate::types::Meta;

/// The bytes of one transcript, in order: binary frames, exactly as they were in the spool.
///
/// A read fails with `InvalidData`, and an [`Error::Corrupt`] inside, when what is on disk is damaged. Bytes that
/// were read before that are good.
#[derive(Debug)]
pub struct Transcript(Source);

#[derive(Debug)]
enum Source {
    Spool(File),
    Segment(Box<SegmentSource>),
}

impl Transcript {
    pub(crate) fn open(shelf: &Shelf, id: Uuid) -> Result<Self, Error> {
        for _ in 0..HAND_OVER_TRIES_MAX {
            match shelf.index.get(id)? {
                None => return Err(Error::NotFound { id }),
                Some((_, Some(place))) => {
                    let source = SegmentSource::open(shelf, id, place)?;
                    return Ok(Transcript(Source::Segment(Box::new(source))));
                }
                Some((_, None)) => {}
            }
            if let Some(file) = spool::open_to_read(&shelf.layout, id)? {
                return Ok(Transcript(Source::Spool(file)));
            }
            // It ended between the two looks; its row was there before its spool went.
        }
        Err(Error::SpoolGone { id })
    }

    /// It has ended: there is no more to come behind the last byte.
    pub fn ended(&self) -> bool {
        matches!(self.0, Source::Segment(_))
    }
}

impl Read for Transcript {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Spool(file) => file.read(buffer),
            Source::Segment(source) => source.read(buffer),
        }
    }
}

/// Goes through the chunks of one execution and its end entry, and checks all of them.
#[derive(Debug)]
pub(crate) struct SegmentSource {
    reader: Reader,
    id: Uuid,
    /// The next entry, and where the end entry stands.
    at: u64,
    end: u64,
    /// Bytes of the transcript unpacked so far.
    position: u64,
    chunk: Vec<u8>,
    given: usize,
    /// The end entry, once it was read.
    ended: Option<(Meta, Vec<u8>)>,
}

impl SegmentSource {
    pub(crate) fn open(shelf: &Shelf, id: Uuid, place: Place) -> Result<Self, Error> {
        let reader = Reader::open(&*shelf.disk, &shelf.layout, place.segment)?;
        let (at, end) = (place.start, place.at);
        Ok(SegmentSource { reader, id, at, end, position: 0, chunk: Vec::new(), given: 0, ended: None })
    }

    fn corrupt(&self, what: &str) -> Error {
        let what = format!("at byte {}, execution {}: {what}", self.at, self.id);
        Error::Corrupt { path: self.reader.path.clone(), what }
    }

    /// Unpacks the next chunk; empty behind the last one. The end entry is checked before that is said.
    pub(crate) fn next_chunk(&mut self) -> Result<&[u8], Error> {
        self.given = 0;
        self.chunk.clear();
        if self.ended.is_some() {
            return Ok(&self.chunk);
        }
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        self.read_at(&mut bytes, self.at)?;
        let header = Header::decode(&bytes, &self.reader.head, self.at)
            .ok_or_else(|| self.corrupt("the header of an entry is wrong"))?;
        let expected = if self.at == self.end { Kind::End } else { Kind::Chunk };
        if header.id != self.id || header.kind != expected {
            return Err(self.corrupt("an entry of something else stands there"));
        }
        if header.position != self.position {
            let what =
                format!("its transcript has {} bytes there, and not {}", header.position, self.position);
            return Err(self.corrupt(&what));
        }
        let mut stored = vec![0; header.stored_bytes];
        self.read_at(&mut stored, self.at + ENTRY_HEADER_BYTES as u64)?;
        let raw = header.unpack(&stored).map_err(|what| self.corrupt(what))?;
        if header.kind == Kind::End {
            let (_, meta, object) =
                entry::decode_prefixed(&raw).ok_or_else(|| self.corrupt("its end can't be read"))?;
            self.ended = Some((meta, object));
        } else {
            self.position += raw.len() as u64;
            self.at += header.entry_bytes();
            self.chunk = raw;
        }
        Ok(&self.chunk)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<(), Error> {
        self.reader.file.read_exact_at(buffer, at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt("the file ends there"),
            _ => Error::io("read", &self.reader.path, error),
        })
    }

    /// Meta and object as the end entry has them. `None` before the last chunk was read.
    pub(crate) fn end(&self) -> Option<&(Meta, Vec<u8>)> {
        self.ended.as_ref()
    }
}

impl Read for SegmentSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len() {
            self.next_chunk().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let read = buffer.len().min(self.chunk.len() - self.given);
        buffer[..read].copy_from_slice(&self.chunk[self.given..self.given + read]);
        self.given += read;
        Ok(read)
    }
}

/// Gives the bytes of a removed execution's chunks or request back to the file system. Its tombstone is durable already, so it
/// doesn't matter how far this gets, nor whether the file system can do it.
pub(crate) fn punch(shelf: &Shelf, id: Uuid, place: Place) {
    let path = shelf.layout.segment(place.segment);
    let (Ok(reader), Ok(file)) = (
        Reader::open(&*shelf.disk, &shelf.layout, place.segment),
        shelf.disk.open(&path, crate::disk::Access::Write),
    ) else {
        return;
    };
    let mut at = place.start;
    while at < place.at {
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        let header = match reader.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Header::decode(&bytes, &reader.head, at),
            Err(_) => None,
        };
        let Some(header) = header.filter(|header| header.kind.is_piece() && header.id == id) else { return };
        if file.punch(at + ENTRY_HEADER_BYTES as u64, header.stored_bytes as u64).is_err() {
            return;
        }
        at += header.entry_bytes();
    }
}

/// Row and place of an execution that has ended.
pub(crate) fn place_of(index: &Index, id: Uuid) -> Result<Place, Error> {
    match index.get(id)? {
        None => Err(Error::NotFound { id }),
        Some((_, None)) => Err(Error::NotEnded { id }),
        Some((_, Some(place))) => Ok(place),
    }
}
