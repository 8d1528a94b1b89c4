//! The binary encoding: a frozen begin block, then frames of a 32-byte header and a payload.
//!
//! The bytes are drawn in `docs/spec/transcript.md`. Header and payload have a checksum each, so a length is known
//! to be right before anybody waits for that many bytes: a torn tail and a damaged one can be told apart.

use std::fmt;

use crate::limits::{OUTPUT_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::payload;
use crate::record::{Begin, Frame, Ordering, Stream};
use crate::tally::{KIND_DROPPED, KIND_OUTPUT};

/// First bytes of every transcript. Not text, and damaged by what converts line ends or strips the eighth bit.
pub const MAGIC: [u8; 8] = *b"\x89LWT\r\n\x1a\n";
/// Bytes of the begin block.
pub const BEGIN_BYTES: usize = 64;
/// Bytes of every other frame's header.
pub const HEADER_BYTES: usize = 32;

const KIND_NOTE: u8 = 3;
const KIND_SEAL: u8 = 4;

/// Appends one frame.
///
/// Texts over [`crate::limits::TEXT_BYTES_MAX`] are cut, and so is a list of output files
/// ([`crate::Seal::outputs_that_fit`]). An Output frame must hold 1 to [`OUTPUT_BYTES_MAX`] bytes and a Dropped frame
/// count at least one: the encoding of any other is refused by every decoder, hence can't pass as complete.
pub fn encode(frame: &Frame<'_>, out: &mut Vec<u8>) {
    match frame {
        Frame::Begin(begin) => out.extend_from_slice(&begin_block(begin)),
        Frame::Output { seq, time, stream, bytes } => {
            out.extend_from_slice(&output_header(*seq, *time, *stream, bytes));
            out.extend_from_slice(bytes);
        }
        Frame::Dropped { seq, time, stream, bytes } => {
            let payload = bytes.to_le_bytes();
            out.extend_from_slice(&header(KIND_DROPPED, *stream as u8, *seq, *time, &payload));
            out.extend_from_slice(&payload);
        }
        Frame::Note { time, note } => framed(KIND_NOTE, *time, out, |out| payload::put_note(note, out)),
        Frame::Seal(seal) => framed(KIND_SEAL, seal.time, out, |out| payload::put_seal(seal, out)),
    }
}

/// The header of an Output frame, for a writer that has `bytes` elsewhere and writes both with one `writev`.
pub fn output_header(seq: u64, time: u64, stream: Stream, bytes: &[u8]) -> [u8; HEADER_BYTES] {
    debug_assert!((1..=OUTPUT_BYTES_MAX).contains(&bytes.len()), "an Output frame of {} bytes", bytes.len());
    header(KIND_OUTPUT, stream as u8, seq, time, bytes)
}

/// Appends a frame whose payload `put` writes in place.
fn framed(kind: u8, time: u64, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.resize(at + HEADER_BYTES, 0);
    put(out);
    let header = header(kind, 0, 0, time, &out[at + HEADER_BYTES..]);
    out[at..at + HEADER_BYTES].copy_from_slice(&header);
}

fn header(kind: u8, stream: u8, seq: u64, time: u64, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[4] = kind;
    header[5] = stream;
    header[8..16].copy_from_slice(&seq.to_le_bytes());
    header[16..24].copy_from_slice(&time.to_le_bytes());
    header[24..28].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let sum = crc32c::crc32c(&header[..28]);
    header[28..32].copy_from_slice(&sum.to_le_bytes());
    header
}

fn begin_block(begin: &Begin) -> [u8; BEGIN_BYTES] {
    let mut block = [0; BEGIN_BYTES];
    block[0..8].copy_from_slice(&MAGIC);
    block[8..10].copy_from_slice(&begin.version.to_le_bytes());
    block[10] = begin.ordering as u8;
    block[11] = begin.tty as u8;
    block[16..32].copy_from_slice(&begin.id);
    block[32..48].copy_from_slice(&begin.boot_id);
    block[48..56].copy_from_slice(&begin.wall_ns.to_le_bytes());
    let sum = crc32c::crc32c(&block[..60]);
    block[60..64].copy_from_slice(&sum.to_le_bytes());
    block
}

fn read_begin(block: &[u8; BEGIN_BYTES]) -> Result<Begin, Fault> {
    if block[..8] != MAGIC {
        return Err(Fault::NotATranscript);
    }
    if crc32c::crc32c(&block[..60]).to_le_bytes() != block[60..] {
        return Err(Fault::BeginChecksum);
    }
    let version = u16::from_le_bytes(chunk(block, 8));
    if version != Begin::VERSION {
        return Err(Fault::Version { found: version });
    }
    if block[12..16] != [0; 4] || block[56..60] != [0; 4] {
        return Err(Fault::Reserved);
    }
    Ok(Begin {
        version,
        id: chunk(block, 16),
        boot_id: chunk(block, 32),
        wall_ns: i64::from_le_bytes(chunk(block, 48)),
        ordering: Ordering::from_wire(block[10]).ok_or(Fault::Payload("its ordering is unknown"))?,
        tty: match block[11] {
            0 => false,
            1 => true,
            _ => return Err(Fault::Payload("its flags are unknown")),
        },
    })
}

/// `N` bytes at a place that the type of `block` is known to have.
fn chunk<const SIZE: usize, const N: usize>(block: &[u8; SIZE], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

/// Why bytes are not a transcript, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where the frame that can't be read begins, in bytes from the start of the transcript.
    pub offset: u64,
    pub fault: Fault,
}

/// What a decoder refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first bytes are not [`MAGIC`].
    NotATranscript,
    BeginChecksum,
    /// Written in another version of the format, newer as a rule.
    Version {
        found: u16,
    },
    HeaderChecksum,
    PayloadChecksum,
    Kind {
        found: u8,
    },
    /// Length over the limit of its kind, or under its minimum.
    Length {
        bytes: u32,
    },
    /// Something that must be zero is not, or names no stream.
    Reserved,
    Seq {
        expected: u64,
        found: u64,
    },
    Time {
        before: u64,
        found: u64,
    },
    /// The checksum is right and the payload still makes no sense; the text is the end of a sentence.
    Payload(&'static str),
    AfterSeal,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match self.fault {
            Fault::NotATranscript => write!(to, "this is not a transcript: its first bytes are others"),
            Fault::BeginChecksum => write!(to, "the begin block is damaged: its checksum is wrong"),
            Fault::Version { found } => write!(
                to,
                "the transcript is in version {found} of the format, and this program reads version {} only",
                Begin::VERSION
            ),
            Fault::HeaderChecksum => {
                write!(to, "the frame header at byte {at} is damaged: its checksum is wrong")
            }
            Fault::PayloadChecksum => write!(to, "the frame at byte {at} is damaged: its checksum is wrong"),
            Fault::Kind { found } => write!(to, "the frame at byte {at} is of the unknown kind {found}"),
            Fault::Length { bytes } => {
                write!(to, "the frame at byte {at} can't have a payload of {bytes} bytes")
            }
            Fault::Reserved => write!(to, "the frame at byte {at} has values that version 1 does not know"),
            Fault::Seq { expected, found } => {
                write!(to, "record {expected} should be at byte {at}, and there is record {found}")
            }
            Fault::Time { before, found } => {
                write!(to, "time goes back at byte {at}, from {before} ns to {found} ns")
            }
            Fault::Payload(wrong) => write!(to, "the frame at byte {at} is wrong: {wrong}"),
            Fault::AfterSeal => write!(to, "there are bytes after the seal, from byte {at} on"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Push decoder: takes a transcript in any pieces, gives whole frames.
///
/// It holds what was pushed and not yet consumed, so call [`Decoder::next`] until `None` after every push.
/// The first error is final: what follows a damaged frame can't be told from forged bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that frames already took.
    taken: usize,
    /// Bytes of whole frames before `buffer[taken]`.
    offset: u64,
    place: Place,
    /// The seq that the next record must have.
    seq: u64,
    time: u64,
    error: Option<DecodeError>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Begin,
    Frames,
    Sealed,
}

/// A header whose checksum was right.
#[derive(Clone, Copy)]
struct Header {
    length: u32,
    kind: u8,
    stream: u8,
    reserved: [u8; 2],
    seq: u64,
    time: u64,
    payload_crc: u32,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes. Copies them once; moves older ones only when at least as many were taken.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        } else if self.taken >= self.buffer.len() - self.taken {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// The first thing that [`Fault`] lists, and the same again ever after.
    #[expect(
        clippy::should_implement_trait,
        reason = "frames borrow from the decoder, which an Iterator can't say"
    )]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let refused = match self.locate() {
            Ok(None) => return Ok(None),
            Ok(Some(Located::Begin(begin))) => return Ok(Some(Frame::Begin(begin))),
            Ok(Some(Located::Frame(header, at))) => {
                let payload = &self.buffer[at..at + header.length as usize];
                match frame(&header, payload) {
                    Ok(frame) => {
                        self.taken = at + header.length as usize;
                        self.offset += (HEADER_BYTES + header.length as usize) as u64;
                        self.time = header.time;
                        match frame {
                            Frame::Output { .. } | Frame::Dropped { .. } => self.seq += 1,
                            Frame::Seal(_) => self.place = Place::Sealed,
                            Frame::Begin(_) | Frame::Note { .. } => {}
                        }
                        return Ok(Some(frame));
                    }
                    Err(fault) => fault,
                }
            }
            Err(fault) => fault,
        };
        let error = DecodeError { offset: self.offset, fault: refused };
        self.error = Some(error.clone());
        Err(error)
    }

    /// Bytes of the whole frames given out so far: the length of the valid part.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that were pushed and belong to no whole frame yet.
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// The seal was given out.
    pub fn sealed(&self) -> bool {
        self.place == Place::Sealed
    }

    /// Finds the next frame in the buffer and checks all that its header says.
    fn locate(&mut self) -> Result<Option<Located>, Fault> {
        let rest = &self.buffer[self.taken..];
        match self.place {
            Place::Begin => {
                let known = rest.len().min(MAGIC.len());
                if rest[..known] != MAGIC[..known] {
                    return Err(Fault::NotATranscript);
                }
                let Some(block) = rest.first_chunk::<BEGIN_BYTES>() else { return Ok(None) };
                let begin = read_begin(block)?;
                self.taken += BEGIN_BYTES;
                self.offset += BEGIN_BYTES as u64;
                self.place = Place::Frames;
                Ok(Some(Located::Begin(begin)))
            }
            Place::Frames => {
                let Some(block) = rest.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
                let header = read_header(block)?;
                self.check(&header)?;
                let Some(payload) = rest[HEADER_BYTES..].get(..header.length as usize) else {
                    return Ok(None);
                };
                if crc32c::crc32c(payload) != header.payload_crc {
                    return Err(Fault::PayloadChecksum);
                }
                Ok(Some(Located::Frame(header, self.taken + HEADER_BYTES)))
            }
            Place::Sealed if rest.is_empty() => Ok(None),
            Place::Sealed => Err(Fault::AfterSeal),
        }
    }

    fn check(&self, header: &Header) -> Result<(), Fault> {
        let record = matches!(header.kind, KIND_OUTPUT | KIND_DROPPED);
        let lengths = match header.kind {
            KIND_OUTPUT => 1..=OUTPUT_BYTES_MAX,
            KIND_DROPPED => 8..=8,
            KIND_NOTE | KIND_SEAL => 1..=PAYLOAD_BYTES_MAX,
            found => return Err(Fault::Kind { found }),
        };
        if !lengths.contains(&(header.length as usize)) {
            return Err(Fault::Length { bytes: header.length });
        }
        let stream_known = Stream::from_wire(header.stream).is_some();
        if header.reserved != [0; 2]
            || stream_known != record
            || (!record && (header.stream, header.seq) != (0, 0))
        {
            return Err(Fault::Reserved);
        }
        if record && header.seq != self.seq {
            return Err(Fault::Seq { expected: self.seq, found: header.seq });
        }
        if header.time < self.time {
            return Err(Fault::Time { before: self.time, found: header.time });
        }
        Ok(())
    }
}

enum Located {
    Begin(Begin),
    /// And where in the buffer its payload begins.
    Frame(Header, usize),
}

fn read_header(block: &[u8; HEADER_BYTES]) -> Result<Header, Fault> {
    if crc32c::crc32c(&block[..28]).to_le_bytes() != block[28..] {
        return Err(Fault::HeaderChecksum);
    }
    Ok(Header {
        length: u32::from_le_bytes(chunk(block, 0)),
        kind: block[4],
        stream: block[5],
        reserved: chunk(block, 6),
        seq: u64::from_le_bytes(chunk(block, 8)),
        time: u64::from_le_bytes(chunk(block, 16)),
        payload_crc: u32::from_le_bytes(chunk(block, 24)),
    })
}

/// The frame of a header and a payload that were both checked.
fn frame<'a>(header: &Header, payload: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let (seq, time) = (header.seq, header.time);
    match (header.kind, Stream::from_wire(header.stream)) {
        (KIND_OUTPUT, Some(stream)) => Ok(Frame::Output { seq, time, stream, bytes: payload }),
        (KIND_DROPPED, Some(stream)) => {
            let count = payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            if count == 0 {
                return Err(Fault::Payload("it drops no bytes"));
            }
            Ok(Frame::Dropped { seq, time, stream, bytes: count })
        }
        (KIND_NOTE, None) => {
            Ok(Frame::Note { time, note: payload::get_note(payload).map_err(Fault::Payload)? })
        }
        (KIND_SEAL, None) => Ok(Frame::Seal(payload::get_seal(time, payload).map_err(Fault::Payload)?)),
        (found, _) => Err(Fault::Kind { found }),
    }
}
