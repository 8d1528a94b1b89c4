//! The binary encoding: any split, any garbage.

use crate::sample::{self, Owned, any_transcript, decode_binary, to_binary};
use lastword_frame::binary::{BEGIN_BYTES, Decoder, Fault, HEADER_BYTES, encode, output_header};
use lastword_frame::limits::{OUTPUT_FILES_MAX, TEXT_BYTES_MAX};
use lastword_frame::{Cause, Frame, Note, OutputFile, Seal, Stream};
use proptest::collection::vec;
use proptest::prelude::*;

fn fault(bytes: &[u8]) -> Option<Fault> {
    decode_binary(bytes, &[]).1.map(|error| error.fault)
}

/// A header as the spec draws it, with checksums that are right.
fn header(length: u32, kind: u8, stream: u8, reserved: u8, seq: u64, time: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend([kind, stream, reserved, 0]);
    bytes.extend(seq.to_le_bytes());
    bytes.extend(time.to_le_bytes());
    bytes.extend(crc32c::crc32c(payload).to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// A begin, then one frame of this header and payload.
fn one(kind: u8, stream: u8, seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = to_binary(&sample::fast_fail()[..1]);
    bytes.extend(header(payload.len() as u32, kind, stream, 0, seq, 0, payload));
    bytes.extend(payload);
    bytes
}

#[test]
fn what_the_spec_refuses() {
    let begin = to_binary(&sample::fast_fail()[..1]);
    assert_eq!(fault(&one(1, 1, 0, b"x")), None);
    assert_eq!(fault(b"\x89LWU"), Some(Fault::NotATranscript));
    assert_eq!(fault(b"x"), Some(Fault::NotATranscript));
    let mut flipped = begin.clone();
    flipped[20] ^= 1;
    assert_eq!(fault(&flipped), Some(Fault::BeginChecksum));
    assert_eq!(fault(&[begin.clone(), vec![0; HEADER_BYTES]].concat()), Some(Fault::HeaderChecksum));
    assert_eq!(fault(&one(5, 0, 0, b"x")), Some(Fault::Kind { found: 5 }));
    assert_eq!(fault(&one(0, 0, 0, b"x")), Some(Fault::Kind { found: 0 }));
    assert_eq!(fault(&one(1, 1, 0, b"")), Some(Fault::Length { bytes: 0 }));
    assert_eq!(fault(&one(1, 3, 0, b"x")), Some(Fault::Reserved));
    assert_eq!(fault(&one(3, 1, 0, &[1])), Some(Fault::Reserved));
    assert_eq!(fault(&one(3, 0, 1, &[1])), Some(Fault::Reserved));
    assert_eq!(fault(&one(1, 1, 1, b"x")), Some(Fault::Seq { expected: 0, found: 1 }));
    assert_eq!(fault(&one(2, 1, 0, &[0; 8])), Some(Fault::Payload("it drops no bytes")));
    assert_eq!(fault(&one(3, 0, 0, &[1, 0])), Some(Fault::Payload("its payload has bytes too many")));
    assert_eq!(fault(&one(3, 0, 0, &[2, 0])), Some(Fault::Payload("its payload ends too early")));
    assert_eq!(fault(&one(3, 0, 0, &[9])), Some(Fault::Payload("the note is of an unknown kind")));
    let reserved = header(1, 1, 1, 1, 0, 0, b"x");
    assert_eq!(fault(&[begin.clone(), reserved, b"x".to_vec()].concat()), Some(Fault::Reserved));
    let mut back = begin.clone();
    encode(&Frame::Output { seq: 0, time: 5, stream: Stream::Stdout, bytes: b"x" }, &mut back);
    encode(&Frame::Output { seq: 1, time: 4, stream: Stream::Stdout, bytes: b"x" }, &mut back);
    assert_eq!(fault(&back), Some(Fault::Time { before: 5, found: 4 }));
    let mut twice = to_binary(&sample::fast_fail());
    twice.extend(to_binary(&sample::fast_fail()));
    assert_eq!(fault(&twice), Some(Fault::AfterSeal));
    let mut payload = one(1, 1, 0, b"xyz");
    payload[BEGIN_BYTES + HEADER_BYTES + 1] ^= 0x20;
    assert_eq!(fault(&payload), Some(Fault::PayloadChecksum));
}

/// A reader of this build says which version it met; so will this build's successors, from the same place.
#[test]
fn a_newer_version_is_named() {
    let mut bytes = to_binary(&sample::fast_fail());
    bytes[8] = 2;
    bytes[10] = 77;
    let sum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    let error = decode_binary(&bytes, &[]).1.expect("version 2 is not known");
    assert_eq!(error.fault, Fault::Version { found: 2 });
    assert_eq!(
        error.to_string(),
        "the transcript is in version 2 of the format, and this program reads version 1 only"
    );
}

/// A length is refused by its header alone: the decoder doesn't wait for 4 GiB, nor set them aside.
#[test]
fn a_length_over_the_limit_is_refused_at_once() {
    for (kind, stream, length) in
        [(1, 1, 65_537), (1, 2, u32::MAX), (2, 1, 9), (3, 0, u32::MAX), (4, 0, 4_194_305)]
    {
        let mut bytes = to_binary(&sample::fast_fail()[..1]);
        bytes.extend(header(length, kind, stream, 0, 0, 0, b""));
        assert_eq!(fault(&bytes), Some(Fault::Length { bytes: length }));
    }
}

/// With checksums that are right, so that the payload's own checks have to hold.
#[test]
fn a_seal_of_lies_costs_no_memory() {
    let Some(Owned::Other(Frame::Seal(seal))) = sample::fast_fail().pop() else { unreachable!() };
    let mut bytes = Vec::new();
    encode(&Frame::Seal(seal), &mut bytes);
    let mut payload = bytes.split_off(HEADER_BYTES);
    let at = payload.len() - 4;
    payload[at..].copy_from_slice(&10_000u32.to_le_bytes());
    assert_eq!(fault(&one(4, 0, 0, &payload)), Some(Fault::Payload("its payload ends too early")));
    payload[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        fault(&one(4, 0, 0, &payload)),
        Some(Fault::Payload("it lists more output files than the limit"))
    );
}

#[test]
fn the_encoder_writes_nothing_that_the_decoder_refuses() {
    let text = "€".repeat(TEXT_BYTES_MAX);
    let note = Note::Arrival { from_seq: 0, why: text.clone() };
    let file = |length: usize| OutputFile { path: vec![b'p'; length], bytes: 1, blake3: [7; 32] };
    let seal = |outputs| Seal {
        cause: Cause::StartFailure { step: text.clone(), errno: 1, message: text.clone() },
        outputs,
        ..sample::bare_seal()
    };
    for outputs in
        [vec![file(1); OUTPUT_FILES_MAX + 1], vec![file(TEXT_BYTES_MAX); 2000], vec![file(4097); 2]]
    {
        let seal = seal(outputs);
        let fit = seal.outputs_that_fit().len();
        assert!(fit < seal.outputs.len());
        let mut bytes = to_binary(&sample::fast_fail()[..1]);
        encode(&Frame::Note { time: 0, note: note.clone() }, &mut bytes);
        encode(&Frame::Seal(seal), &mut bytes);
        let (frames, error, _) = decode_binary(&bytes, &[]);
        assert_eq!(error, None);
        let Some(Owned::Other(Frame::Seal(seal))) = frames.last() else { panic!("no seal") };
        assert_eq!(seal.outputs.len(), fit);
        let Cause::StartFailure { step, .. } = &seal.cause else { panic!("another cause") };
        assert_eq!(step.as_str(), "€".repeat(TEXT_BYTES_MAX / 3));
    }
}

#[test]
fn a_header_alone_is_that_of_encode() {
    let mut whole = Vec::new();
    encode(&Frame::Output { seq: 7, time: 9, stream: Stream::Stderr, bytes: b"bytes" }, &mut whole);
    assert_eq!([&output_header(7, 9, Stream::Stderr, b"bytes")[..], b"bytes"].concat(), whole);
}

#[test]
fn the_offset_is_that_of_whole_frames() {
    let frames = sample::everything();
    let bytes = to_binary(&frames);
    let (mut decoder, mut end, mut ends) = (Decoder::new(), 0, Vec::new());
    for frame in &frames {
        end += to_binary(std::slice::from_ref(frame)).len() as u64;
        ends.push(end);
    }
    for byte in &bytes {
        decoder.push(std::slice::from_ref(byte));
        while let Ok(Some(_)) = decoder.next() {
            assert_eq!(decoder.offset(), ends.remove(0));
        }
    }
    assert!(ends.is_empty() && decoder.sealed() && decoder.waiting() == 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn encoding_and_decoding_is_identity(frames in any_transcript(), cuts in vec(any::<usize>(), 0..20)) {
        let bytes = to_binary(&frames);
        let (decoded, error, offset) = decode_binary(&bytes, &cuts);
        prop_assert_eq!(error, None);
        prop_assert_eq!(offset, bytes.len() as u64);
        prop_assert_eq!(decoded, frames);
    }

    /// Whatever the damage, the same frames and the same error come out, wherever the bytes are split.
    #[test]
    fn splits_change_nothing(
        frames in any_transcript(), at in any::<usize>(), mask in any::<u8>(), cuts in vec(any::<usize>(), 0..20),
    ) {
        let mut bytes = to_binary(&frames);
        let at = at % bytes.len();
        bytes[at] ^= mask;
        prop_assert_eq!(decode_binary(&bytes, &cuts), decode_binary(&bytes, &[]));
    }

    #[test]
    fn garbage_is_survived(bytes in vec(any::<u8>(), 0..300), cuts in vec(any::<usize>(), 0..5)) {
        let mut with_begin = to_binary(&sample::fast_fail()[..1]);
        with_begin.extend(&bytes);
        prop_assert_eq!(decode_binary(&with_begin, &cuts), decode_binary(&with_begin, &[]));
        prop_assert_eq!(decode_binary(&bytes, &cuts), decode_binary(&bytes, &[]));
    }

    /// One value has one encoding: a payload that is accepted is written again to the same bytes.
    #[test]
    fn payloads_are_canonical(frames in any_transcript(), at in any::<usize>(), value in any::<u8>()) {
        let mut bytes = Vec::new();
        let Some(seal) = frames.last() else { return Ok(()) };
        encode(&seal.frame(), &mut bytes);
        let mut payload = bytes.split_off(HEADER_BYTES);
        let at = at % payload.len();
        payload[at] = value;
        let bytes = one(4, 0, 0, &payload);
        let (decoded, error, _) = decode_binary(&bytes, &[]);
        if error.is_none() {
            prop_assert_eq!(to_binary(&decoded), bytes);
        }
    }
}
