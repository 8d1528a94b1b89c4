//! The verdict: never complete when a byte is changed, missing or added.

use crate::sample::{self, Owned, any_transcript, bare_seal, begin, note, output, pieces, sealed, to_binary};
use lastword_frame::limits::{OUTPUTS_REFUSED_BYTES_MAX, OUTPUTS_REFUSED_MAX, TEXT_BYTES_MAX};
use lastword_frame::verify::{Report, Tail, Verifier};
use lastword_frame::{Begin, Frame, Note, Ordering, Seal, Stream, StreamEnd};
use proptest::collection::vec;
use proptest::prelude::*;

fn verify(bytes: &[u8]) -> Report {
    let mut verifier = Verifier::new();
    verifier.push(bytes);
    verifier.finish()
}

fn why(frames: &[Owned]) -> String {
    verify(&to_binary(frames)).why_incomplete.unwrap_or_default()
}

/// The seal of a transcript, changed.
fn reseal(mut frames: Vec<Owned>, change: impl FnOnce(&mut Seal)) -> Vec<Owned> {
    if let Some(Owned::Other(Frame::Seal(seal))) = frames.last_mut() {
        change(seal);
    }
    frames
}

#[test]
fn a_whole_one_is_complete() {
    let bytes = to_binary(&sample::fast_fail());
    let report = verify(&bytes);
    assert_eq!(report.why_incomplete, None);
    assert!(report.complete());
    assert_eq!((report.records, report.valid_bytes, report.trailing_bytes), (2, bytes.len() as u64, 0));
    assert_eq!((report.streams[0].bytes, report.streams[1].bytes), (13, 71));
    assert_eq!((report.started, report.main_ended), (Some(1_000), Some(21_000_000)));
    assert_eq!(report.tail, Tail::Whole);
    assert_eq!(report.begin, Some(begin()));
}

#[test]
fn every_flipped_bit_shows() {
    let bytes = to_binary(&sample::fast_fail());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let report = verify(&flipped);
            assert!(!report.complete(), "bit {bit} of byte {at}");
            assert_eq!(report.tail, Tail::Damaged, "bit {bit} of byte {at}: {:?}", report.why_incomplete);
        }
    }
}

#[test]
fn every_cut_shows_and_is_torn_not_damaged() {
    let bytes = to_binary(&sample::fast_fail());
    for end in 0..bytes.len() {
        let report = verify(&bytes[..end]);
        assert!(!report.complete(), "cut at {end}");
        assert_eq!(report.seal, None);
        assert_ne!(report.tail, Tail::Damaged, "cut at {end}");
        assert_eq!(report.valid_bytes + report.trailing_bytes, end as u64);
        assert_eq!(report.tail == Tail::Torn, report.trailing_bytes > 0);
    }
}

#[test]
fn every_byte_left_out_or_added_shows() {
    let bytes = to_binary(&sample::fast_fail());
    for at in 0..bytes.len() {
        let mut without = bytes.clone();
        without.remove(at);
        assert!(!verify(&without).complete(), "without byte {at}");
        for value in [0, bytes[at], 0xFF] {
            let mut with = bytes.clone();
            with.insert(at, value);
            assert!(!verify(&with).complete(), "{value} put in at {at}");
        }
    }
    for extra in [0u8, 0x89, 0xFF] {
        let report = verify(&[&bytes[..], &[extra]].concat());
        assert_eq!((report.complete(), report.trailing_bytes, report.tail), (false, 1, Tail::Damaged));
        assert!(report.seal.is_some());
    }
}

/// Frames whose checksums are all right, under a seal that was made for others: the digests have to tell.
#[test]
fn a_record_changed_with_its_checksum_shows() {
    let frames = sample::fast_fail();
    let change = |index: usize, change: fn(&mut Owned)| {
        let mut changed = frames.clone();
        change(&mut changed[index]);
        why(&changed)
    };
    let bytes = |frame: &mut Owned| {
        if let Owned::Output { bytes, .. } = frame {
            bytes[0] ^= 1;
        }
    };
    let time = |frame: &mut Owned| {
        if let Owned::Output { time, .. } = frame {
            *time += 1;
        }
    };
    let stream = |frame: &mut Owned| {
        if let Owned::Output { stream, .. } = frame {
            *stream = Stream::Stderr;
        }
    };
    assert_eq!(
        change(2, bytes),
        "the bytes of stdout are not those that were sealed: their digest is another"
    );
    assert_eq!(
        change(3, bytes),
        "the bytes of stderr are not those that were sealed: their digest is another"
    );
    assert_eq!(change(2, time), "the order, times or cuts of the records are not those that were sealed");
    assert_eq!(change(2, stream), "the seal counts 13 bytes of stdout, and there are 0");
}

#[test]
fn records_moved_joined_or_left_out_show() {
    let one = |time, bytes: &[u8]| output(time, Stream::Stdout, bytes);
    let make = |middle: Vec<Owned>| sealed(begin(), middle, Seal { time: 9, ..bare_seal() });
    let right = make(vec![one(1, b"ab"), output(1, Stream::Stderr, b"x"), one(1, b"c")]);
    let wrong = |middle: Vec<Owned>| {
        let mut frames = make(middle);
        *frames.last_mut().expect("a seal") = right.last().expect("a seal").clone();
        why(&frames)
    };
    assert_eq!(why(&right), "");
    let order = "the order, times or cuts of the records are not those that were sealed";
    assert_eq!(wrong(vec![output(1, Stream::Stderr, b"x"), one(1, b"ab"), one(1, b"c")]), order);
    assert_eq!(wrong(vec![one(1, b"a"), output(1, Stream::Stderr, b"x"), one(1, b"bc")]), order);
    assert_eq!(
        wrong(vec![one(1, b"ab"), output(1, Stream::Stderr, b"x")]),
        "the seal counts 3 records, and there are 2"
    );
}

#[test]
fn each_reason_has_its_sentence() {
    let whole = sample::fast_fail();
    let bytes = to_binary(&whole);
    let text = |bytes: &[u8]| verify(bytes).why_incomplete.unwrap_or_default();
    assert_eq!(text(b""), "nothing was recorded");
    assert_eq!(
        text(&bytes[..30]),
        "nothing was recorded: there are 30 bytes of a begin block that was not finished"
    );
    assert_eq!(text(&bytes[..64]), "the transcript has no seal: its writer ended early");
    assert_eq!(
        text(&bytes[..100]),
        "the transcript has no seal: it breaks off inside a frame, 3 bytes after the last whole one at byte 97"
    );
    assert_eq!(text(b"#!/bin/sh"), "this is not a transcript: its first bytes are others");
    assert_eq!(
        text(&[&bytes[..97], &[0; 40]].concat()),
        "the frame header at byte 97 is damaged: its checksum is wrong"
    );
    let dropped = Owned::Other(Frame::Dropped { seq: 0, time: 1, stream: Stream::Stdout, bytes: 5 });
    let lossy = sealed(begin(), vec![dropped], Seal { time: 9, ..bare_seal() });
    assert_eq!(why(&lossy), "5 bytes of stdout were dropped");
    assert_eq!(
        why(&reseal(lossy, |seal| seal.streams[0].dropped = 0)),
        "the seal counts 0 dropped bytes of stdout, and the records 5"
    );
    let leaked = reseal(whole.clone(), |seal| seal.streams[1].end = StreamEnd::LeakedWriter);
    assert_eq!(why(&leaked), "stderr still has a writer");
}

#[test]
fn the_label_must_be_true() {
    let arrival = || note(0, Note::Arrival { from_seq: 1, why: String::new() });
    let exact = Begin { ordering: Ordering::Exact, ..begin() };
    let loose = Begin { ordering: Ordering::Arrival, ..begin() };
    let seal = |ordering, exact_until_seq| Seal { ordering, exact_until_seq, ..bare_seal() };
    let text = |begin: &Begin, middle, seal| why(&sealed(begin.clone(), middle, seal));
    let (e, a) = (Ordering::Exact, Ordering::Arrival);
    assert_eq!(text(&exact, vec![arrival()], seal(a, Some(1))), "");
    assert_eq!(text(&exact, vec![arrival()], seal(a, None)), "");
    assert_eq!(text(&loose, vec![], seal(a, None)), "");
    assert_ne!(text(&exact, vec![arrival()], seal(e, None)), "");
    assert_ne!(text(&exact, vec![arrival()], seal(a, Some(2))), "");
    assert_ne!(text(&loose, vec![], seal(e, None)), "");
    assert_ne!(text(&loose, vec![], seal(a, Some(1))), "");
    assert_ne!(text(&exact, vec![], seal(e, Some(1))), "");
    assert_ne!(text(&exact, vec![arrival(), arrival()], seal(a, Some(1))), "");
}

#[test]
fn nothing_follows_the_end_of_a_stream() {
    let end = note(0, Note::StreamEnd { stream: Stream::Stdout });
    let make = |stream| sealed(begin(), vec![end.clone(), output(0, stream, b"x")], bare_seal());
    assert_eq!(why(&make(Stream::Stderr)), "");
    assert_eq!(why(&make(Stream::Stdout)), "record 0 is of stdout, which had already ended");
}

#[test]
fn refused_outputs_are_collected_within_bounds() {
    let make = |notes: Vec<Note>| {
        let notes = notes.into_iter().map(|of| note(0, of)).collect();
        verify(&to_binary(&sealed(begin(), notes, bare_seal())))
    };
    let refused = |path: Vec<u8>, why: &str| Note::OutputRefused { path, why: why.to_owned() };
    let small: Vec<Note> = (0..250u8).map(|n| refused(vec![n], "no")).collect();
    let report = make(small);
    assert_eq!((report.outputs_refused.len(), report.outputs_refused_more), (OUTPUTS_REFUSED_MAX, 150));
    assert_eq!((&report.outputs_refused[7].path[..], &*report.outputs_refused[7].why), (&[7u8][..], "no"));
    assert!(report.complete(), "{:?}", report.why_incomplete);
    let large: Vec<Note> = (0..90u8).map(|n| refused(vec![n; TEXT_BYTES_MAX], &"x".repeat(4000))).collect();
    let report = make(large);
    let bytes: usize = report.outputs_refused.iter().map(|of| of.path.len() + of.why.len()).sum();
    assert!(bytes <= OUTPUTS_REFUSED_BYTES_MAX && bytes > OUTPUTS_REFUSED_BYTES_MAX / 2, "{bytes}");
    assert_eq!(report.outputs_refused.len() as u64 + report.outputs_refused_more, 90);
    let twice = make(vec![refused(b"a".to_vec(), "no"), refused(b"a".to_vec(), "yes")]);
    assert_eq!(twice.why_incomplete.as_deref(), Some("the transcript has the note output_refused twice"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_verdict_knows_no_splits(
        frames in any_transcript(), at in any::<usize>(), mask in any::<u8>(), cuts in vec(any::<usize>(), 0..20),
    ) {
        let mut bytes = to_binary(&frames);
        let at = at % bytes.len();
        bytes[at] ^= mask;
        let mut verifier = Verifier::new();
        pieces(&bytes, &cuts).into_iter().for_each(|piece| verifier.push(piece));
        let report = verifier.finish();
        prop_assert_eq!(&report, &verify(&bytes));
        prop_assert!(mask == 0 || !report.complete());
    }

    /// Complete exactly when nothing was dropped; and never after a cut, or with a byte moved.
    #[test]
    fn generated_ones(frames in any_transcript(), cut in any::<usize>(), to in any::<usize>()) {
        let bytes = to_binary(&frames);
        let lossy = frames.iter().any(|frame| matches!(frame, Owned::Other(Frame::Dropped { .. })));
        prop_assert_eq!(verify(&bytes).complete(), !lossy);
        prop_assert!(!verify(&bytes[..cut % bytes.len()]).complete());
        let mut moved = bytes.clone();
        let byte = moved.remove(cut % bytes.len());
        moved.insert(to % bytes.len(), byte);
        prop_assert!(moved == bytes || !verify(&moved).complete());
    }
}
