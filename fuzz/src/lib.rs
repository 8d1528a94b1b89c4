//! What the targets share: owned events, splits, and the repair of checksums that no fuzzer finds by itself.
#![forbid(unsafe_code)]

use lastword_frame::binary::{BEGIN_BYTES, DecodeError, Decoder, HEADER_BYTES, MAGIC, encode};
use lastword_frame::lines::{self, Event};
use lastword_frame::{Frame, Stream};

/// A frame that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owned {
    Output { seq: u64, time: u64, stream: Stream, bytes: Vec<u8> },
    Other(Box<Frame<'static>>),
}

impl Owned {
    pub fn of(frame: Frame<'_>) -> Self {
        Owned::Other(Box::new(match frame {
            Frame::Output { seq, time, stream, bytes } => {
                return Owned::Output { seq, time, stream, bytes: bytes.to_vec() };
            }
            Frame::Begin(begin) => Frame::Begin(begin),
            Frame::Dropped { seq, time, stream, bytes } => Frame::Dropped { seq, time, stream, bytes },
            Frame::Note { time, note } => Frame::Note { time, note },
            Frame::Seal(seal) => Frame::Seal(seal),
        }))
    }

    pub fn frame(&self) -> Frame<'_> {
        match self {
            Owned::Output { seq, time, stream, bytes } => {
                Frame::Output { seq: *seq, time: *time, stream: *stream, bytes }
            }
            Owned::Other(frame) => Frame::clone(frame),
        }
    }
}

/// Cuts `data` into up to nine pieces at places that `data` itself decides.
pub fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut state = u64::from(crc32c::crc32c(data)) | 1;
    let mut cuts = vec![0, data.len()];
    for _ in 0..state % 9 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cuts.push((state >> 33) as usize % (data.len() + 1));
    }
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

pub fn decode_binary(pieces: &[&[u8]]) -> (Vec<Owned>, Option<DecodeError>, u64) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(Owned::of(frame)),
                Ok(None) => break,
                Err(error) => return (frames, Some(error), decoder.offset()),
            }
        }
    }
    (frames, None, decoder.offset())
}

pub fn to_binary(frames: &[Owned]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| encode(&frame.frame(), &mut bytes));
    bytes
}

/// What else than frames was in a log: its kind, its bytes.
pub type Odd = (&'static str, Vec<u8>);

pub fn decode_lines(pieces: &[&[u8]]) -> (Vec<Owned>, Vec<Odd>) {
    let (mut decoder, mut frames, mut odd) = (lines::Decoder::new(), Vec::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        while let Some(event) = decoder.next() {
            match event {
                Event::Frame(frame) => frames.push(Owned::of(frame)),
                Event::Foreign(line) => odd.push(("foreign", line.to_vec())),
                Event::Damaged { line, .. } => odd.push(("damaged", line.to_vec())),
                Event::Repeated(line) => odd.push(("repeated", line.to_vec())),
                Event::Gap { from, to } => odd.push(("gap", [from.to_le_bytes(), to.to_le_bytes()].concat())),
            }
        }
    }
    (frames, odd)
}

pub fn to_lines(frames: &[Owned]) -> Vec<u8> {
    let (mut encoder, mut log) = (lines::Encoder::new(), Vec::new());
    frames.iter().for_each(|frame| encoder.encode(&frame.frame(), &mut log));
    log
}

/// The same bytes with the magic and every checksum put right, as far as lengths lead.
pub fn repair_binary(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let Some(begin) = bytes.first_chunk_mut::<BEGIN_BYTES>() else { return bytes };
    begin[..8].copy_from_slice(&MAGIC);
    begin[8..10].copy_from_slice(&1u16.to_le_bytes());
    let sum = crc32c::crc32c(&begin[..60]);
    begin[60..].copy_from_slice(&sum.to_le_bytes());
    let mut rest = &mut bytes[BEGIN_BYTES..];
    while rest.len() >= HEADER_BYTES {
        let (header, payload) = rest.split_at_mut(HEADER_BYTES);
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let whole = length <= payload.len();
        let sum = crc32c::crc32c(if whole { &payload[..length] } else { payload });
        header[24..28].copy_from_slice(&sum.to_le_bytes());
        let sum = crc32c::crc32c(&header[..28]);
        header[28..].copy_from_slice(&sum.to_le_bytes());
        if !whole {
            break;
        }
        rest = &mut payload[length..];
    }
    bytes
}

/// The same lines with every `crc` put right.
pub fn repair_lines(data: &[u8]) -> Vec<u8> {
    const KEY: &[u8] = b",\"crc\":\"";
    let mut log = Vec::with_capacity(data.len());
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        match line.windows(KEY.len()).position(|window| window == KEY) {
            Some(at) if line.len() >= at + KEY.len() + 8 => {
                log.extend_from_slice(&line[..at]);
                log.extend_from_slice(format!(",\"crc\":\"{:08x}", crc32c::crc32c(&line[..at])).as_bytes());
                log.extend_from_slice(&line[at + KEY.len() + 8..]);
            }
            _ => log.extend_from_slice(line),
        }
    }
    log
}
