//! Bytes that are written down. A change of them is a new version of the format, not a fix of a test.

use std::path::PathBuf;

use crate::sample::{self, Owned, decode_binary, decode_lines, to_binary, to_lines};
use lastword_frame::binary::{BEGIN_BYTES, MAGIC};

fn vector(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// Compares with the committed file, or writes it when `LASTWORD_WRITE_VECTORS` is set.
fn check(name: &str, now: &[u8]) {
    if std::env::var_os("LASTWORD_WRITE_VECTORS").is_some() {
        std::fs::write(vector(name), now).expect("write the vector");
    }
    let kept = std::fs::read(vector(name)).expect("read the vector");
    assert!(kept == now, "{name} is encoded to other bytes than the committed ones");
}

fn check_both(name: &str, frames: &[Owned]) {
    check(&format!("{name}.bin"), &to_binary(frames));
    check(&format!("{name}.jsonl"), &to_lines(frames));
    let kept = std::fs::read(vector(&format!("{name}.bin"))).expect("read the vector");
    assert_eq!(decode_binary(&kept, &[]), (frames.to_vec(), None, kept.len() as u64));
    let kept = std::fs::read(vector(&format!("{name}.jsonl"))).expect("read the vector");
    assert_eq!(decode_lines(&kept, &[]), (frames.to_vec(), Vec::new()));
}

#[test]
fn fast_fail_has_its_bytes() {
    check_both("fast_fail", &sample::fast_fail());
}

#[test]
fn everything_has_its_bytes() {
    check_both("everything", &sample::everything());
}

#[test]
fn kinds_have_their_bytes() {
    check_both("kinds", &sample::kinds());
}

#[test]
fn outputs_and_causes_have_their_bytes() {
    check_both("outputs", &sample::outputs());
    check_both("no_image", &sample::no_image());
}

/// Frozen for all versions: every reader there will ever be finds magic, version and ids at these places.
#[test]
fn the_begin_block_never_changes() {
    let bytes = to_binary(&sample::fast_fail());
    let hex: String = bytes[..BEGIN_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(MAGIC, *b"\x89LWT\r\n\x1a\n");
    assert_eq!(
        hex,
        concat!(
            "894c57540d0a1a0a",
            "0100",
            "01",
            "00",
            "00000000",
            "01900001020370048005060708090a0b",
            "fedcba98765432100011223344556677",
            "18fcf9ed51728618",
            "00000000",
            "8001f062"
        )
    );
}
