//! The verdict knows no splits; "complete" is checked against the records once more, and against a changed byte.
#![no_main]

use lastword_frame::verify::{Report, Verifier};
use lastword_frame::{Frame, Stream};
use lastword_fuzz::{Owned, decode_binary, pieces, repair_binary, to_binary};
use libfuzzer_sys::fuzz_target;

fn verify(pieces: &[&[u8]]) -> Report {
    let mut verifier = Verifier::new();
    pieces.iter().for_each(|piece| verifier.push(piece));
    verifier.finish()
}

fn check(data: &[u8]) {
    let report = verify(&[data]);
    assert_eq!(report, verify(&pieces(data)));
    assert_eq!(report.valid_bytes + report.trailing_bytes, data.len() as u64);
    if !report.complete() {
        return;
    }
    let seal = report.seal.expect("complete without a seal");
    let (frames, error, offset) = decode_binary(&[data]);
    assert_eq!((error, offset), (None, data.len() as u64));
    for stream in Stream::ALL {
        let mut hasher = blake3::Hasher::new();
        for frame in &frames {
            if let Owned::Output { stream: of, bytes, .. } = frame
                && *of == stream
            {
                hasher.update(bytes);
            }
        }
        assert_eq!(*hasher.finalize().as_bytes(), seal.streams[stream.index()].blake3);
    }
    let mut changed = data.to_vec();
    let at = crc32c::crc32c(data) as usize % changed.len();
    changed[at] ^= 1;
    assert!(!verify(&[&changed]).complete());
    assert!(!verify(&[&data[..at]]).complete());
}

/// Gives whatever frames there are a seal that is right, so that complete transcripts are not left to chance.
fn sealed(data: &[u8]) -> Vec<u8> {
    let (mut frames, _, _) = decode_binary(&[data]);
    let mut tally = lastword_frame::tally::Tally::new();
    for frame in &frames {
        match frame.frame() {
            Frame::Output { seq, time, stream, bytes } => tally.output(seq, time, stream, bytes),
            Frame::Dropped { seq, time, stream, bytes } => tally.dropped(seq, time, stream, bytes),
            _ => {}
        }
    }
    if let Some(Owned::Other(last)) = frames.last_mut()
        && let Frame::Seal(seal) = &mut **last
    {
        seal.records = tally.records();
        seal.order_blake3 = tally.order_blake3();
        for stream in Stream::ALL {
            let of = &mut seal.streams[stream.index()];
            (of.bytes, of.dropped, of.blake3) = tally.stream(stream);
        }
    }
    to_binary(&frames)
}

fuzz_target!(|data: &[u8]| {
    check(data);
    let repaired = repair_binary(data);
    check(&repaired);
    check(&sealed(&repaired));
});
