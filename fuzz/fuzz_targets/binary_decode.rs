//! Any bytes: no panic, the same result wherever they are split, and what is accepted is written again to the same bytes.
#![no_main]

use lastword_fuzz::{decode_binary, pieces, repair_binary, to_binary};
use libfuzzer_sys::fuzz_target;

fn check(data: &[u8]) {
    let (frames, error, offset) = decode_binary(&[data]);
    assert_eq!((frames.clone(), error, offset), decode_binary(&pieces(data)));
    assert_eq!(to_binary(&frames), data[..offset as usize]);
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&repair_binary(data));
});
