//! Any log: no panic, the same result wherever it is split, and the frames found survive both encodings.
#![no_main]

use lastword_frame::Frame;
use lastword_fuzz::{Owned, decode_lines, pieces, repair_lines, to_lines};
use libfuzzer_sys::fuzz_target;

fn check(data: &[u8]) {
    let (frames, odd) = decode_lines(&[data]);
    assert_eq!((frames.clone(), odd.clone()), decode_lines(&pieces(data)));
    let begun = matches!(frames.first(), Some(Owned::Other(frame)) if matches!(**frame, Frame::Begin(_)));
    if begun && odd.is_empty() {
        assert_eq!(decode_lines(&[&to_lines(&frames)]), (frames, Vec::new()));
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&repair_lines(data));
});
