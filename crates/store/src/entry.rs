//! The bytes of a segment: header, entries, payloads. No I/O.

use std::cell::RefCell;

use uuid::Uuid;

use crate::limits::{CHUNK_BYTES_MAX, COMPRESS_BYTES_MIN, OBJECT_PAYLOAD_BYTES_MAX};
use crate::types::Meta;

pub(crate) const MAGIC: [u8; 8] = *b"\x89LWSEG\r\n";
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
pub(crate) const ENTRY_HEADER_BYTES: usize = 76;
const FLAG_ZSTD: u8 = 1;
const ZSTD_LEVEL: i32 = 1;
/// The payload of an end, or of a waiting accept, begins with the length of the entries that belong to it.
const PREFIX_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Accept = 1,
    Update = 2,
    Chunk = 3,
    End = 4,
    Tombstone = 5,
    Request = 6,
    /// An accept with its request before it.
    Waiting = 7,
}

const KINDS: [Kind; 7] =
    [Kind::Accept, Kind::Update, Kind::Chunk, Kind::End, Kind::Tombstone, Kind::Request, Kind::Waiting];

impl Kind {
    fn from_wire(value: u8) -> Option<Kind> {
        KINDS.into_iter().find(|kind| *kind as u8 == value)
    }

    fn raw_bytes_max(self) -> usize {
        match self {
            Kind::Accept | Kind::Update | Kind::End | Kind::Waiting => OBJECT_PAYLOAD_BYTES_MAX,
            Kind::Chunk | Kind::Request => CHUNK_BYTES_MAX,
            Kind::Tombstone => 0,
        }
    }

    /// It is a piece of something whose record stands behind the last piece.
    pub(crate) fn is_piece(self) -> bool {
        matches!(self, Kind::Chunk | Kind::Request)
    }
}

/// What every entry of one segment has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: Uuid,
    pub(crate) mark: [u8; 8],
}

impl Head {
    pub(crate) fn encode(&self, made_ns: i64) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..32].copy_from_slice(self.id.as_bytes());
        out[32..40].copy_from_slice(&self.mark);
        out[40..48].copy_from_slice(&made_ns.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Says what is wrong with it, if anything.
    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES], id: Uuid) -> Result<Head, String> {
        if bytes[..8] != MAGIC {
            return Err("it is not a segment".into());
        }
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err("the checksum of its header is wrong".into());
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("its version is {version}, this build knows {VERSION}"));
        }
        if bytes[16..32] != id.as_bytes()[..] {
            return Err("its id is not that of its name".into());
        }
        let mut mark = [0; 8];
        mark.copy_from_slice(&bytes[32..40]);
        Ok(Head { id, mark })
    }
}

/// The fields of an entry's header that a reader needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) synced: u64,
    pub(crate) time_ns: i64,
    pub(crate) id: Uuid,
    pub(crate) kind: Kind,
    zstd: bool,
    pub(crate) stored_bytes: usize,
    raw_bytes: usize,
    pub(crate) position: u64,
    payload_crc: u32,
}

impl Header {
    /// `None` if this is not the header of an entry at `at` of that segment.
    pub(crate) fn decode(bytes: &[u8], head: &Head, at: u64) -> Option<Header> {
        let bytes: &[u8; ENTRY_HEADER_BYTES] = bytes.get(..ENTRY_HEADER_BYTES)?.try_into().ok()?;
        if bytes[..8] != head.mark
            || u64_at(bytes, 8) != at
            || u32_at(bytes, 72) != crc32c::crc32c(&bytes[..72])
        {
            return None;
        }
        let kind = Kind::from_wire(bytes[48])?;
        let flags = bytes[49];
        let (stored_bytes, raw_bytes) = (u32_at(bytes, 52) as usize, u32_at(bytes, 56) as usize);
        let zstd = flags == FLAG_ZSTD;
        let lengths_fit = raw_bytes <= kind.raw_bytes_max()
            && if zstd { stored_bytes < raw_bytes } else { stored_bytes == raw_bytes };
        if flags & !FLAG_ZSTD != 0 || bytes[50..52] != [0, 0] || !lengths_fit {
            return None;
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[32..48]);
        Some(Header {
            synced: u64_at(bytes, 16),
            time_ns: u64_at(bytes, 24) as i64,
            id: Uuid::from_bytes(id),
            kind,
            zstd,
            stored_bytes,
            raw_bytes,
            position: u64_at(bytes, 60),
            payload_crc: u32_at(bytes, 68),
        })
    }

    pub(crate) fn entry_bytes(&self) -> u64 {
        (ENTRY_HEADER_BYTES + self.stored_bytes) as u64
    }

    pub(crate) fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    pub(crate) fn payload_is_whole(&self, stored: &[u8]) -> bool {
        stored.len() == self.stored_bytes && crc32c::crc32c(stored) == self.payload_crc
    }

    /// The payload as it was handed in. Unpacks at most the declared length.
    pub(crate) fn unpack(&self, stored: &[u8]) -> Result<Vec<u8>, &'static str> {
        if !self.payload_is_whole(stored) {
            return Err("the checksum of its payload is wrong");
        }
        if !self.zstd {
            return Ok(stored.to_vec());
        }
        let raw =
            zstd::bulk::decompress(stored, self.raw_bytes).map_err(|_| "its payload can't be unpacked")?;
        if raw.len() != self.raw_bytes {
            return Err("its payload unpacks to another length than declared");
        }
        Ok(raw)
    }
}

/// Entries that have no place in a segment yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn push(&mut self, kind: Kind, id: Uuid, time_ns: i64, position: u64, raw: &[u8]) {
        debug_assert!(raw.len() <= kind.raw_bytes_max());
        let packed = pack(raw);
        let stored = packed.as_deref().unwrap_or(raw);
        let mut header = [0; ENTRY_HEADER_BYTES];
        header[24..32].copy_from_slice(&time_ns.to_le_bytes());
        header[32..48].copy_from_slice(id.as_bytes());
        header[48] = kind as u8;
        header[49] = if packed.is_some() { FLAG_ZSTD } else { 0 };
        header[52..56].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        header[56..60].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        header[60..68].copy_from_slice(&position.to_le_bytes());
        header[68..72].copy_from_slice(&crc32c::crc32c(stored).to_le_bytes());
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(stored);
    }

    /// Fills in what depends on the place: this batch is going to begin at `base`.
    pub(crate) fn place(&mut self, head: &Head, base: u64, synced: u64) {
        for &start in &self.starts {
            let header = &mut self.bytes[start..start + ENTRY_HEADER_BYTES];
            header[0..8].copy_from_slice(&head.mark);
            header[8..16].copy_from_slice(&(base + start as u64).to_le_bytes());
            header[16..24].copy_from_slice(&synced.to_le_bytes());
            let crc = crc32c::crc32c(&header[..72]);
            header[72..76].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// `None` if compression doesn't pay.
fn pack(raw: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        // Making a compressor costs more than compressing a small payload.
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    if raw.len() < COMPRESS_BYTES_MIN {
        return None;
    }
    let packed = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        slot.as_mut()?.compress(raw).ok()
    })?;
    (packed.len() <= raw.len() - raw.len() / 8).then_some(packed)
}

/// Meta and object, as accept, update and (behind their prefix) end and waiting accept carry them.
pub(crate) fn encode_state(meta: &Meta, object: &[u8], piece_bytes: Option<u64>) -> Vec<u8> {
    // A struct of strings, numbers and string maps always serialises.
    let meta = serde_json::to_vec(meta).unwrap_or_default();
    let mut out = Vec::with_capacity(PREFIX_BYTES + 4 + meta.len() + object.len());
    if let Some(bytes) = piece_bytes {
        out.extend_from_slice(&bytes.to_le_bytes());
    }
    out.extend_from_slice(&(meta.len() as u32).to_le_bytes());
    out.extend_from_slice(&meta);
    out.extend_from_slice(object);
    out
}

/// Meta and object of an accept or update.
pub(crate) fn decode_state(raw: &[u8]) -> Option<(Meta, Vec<u8>)> {
    let (length, rest) = raw.split_first_chunk::<4>()?;
    let (meta, object) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((serde_json::from_slice(meta).ok()?, object.to_vec()))
}

/// Length of the pieces before it, meta and object of an end or waiting accept.
pub(crate) fn decode_prefixed(raw: &[u8]) -> Option<(u64, Meta, Vec<u8>)> {
    let (piece_bytes, rest) = raw.split_first_chunk::<PREFIX_BYTES>()?;
    let (meta, object) = decode_state(rest)?;
    Some((u64::from_le_bytes(*piece_bytes), meta, object))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
