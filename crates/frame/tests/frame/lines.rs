//! The line encoding, and what log transports do to it.

use crate::sample::{
    self, Odd, Owned, any_output, any_transcript, begin, decode_lines, note, output, sealed, to_binary,
    to_lines,
};
use lastword_frame::limits::{
    LINE_BYTES_MAX, LINE_MAC_ROOM, OUTPUT_FILES_MAX, OUTPUTS_REFUSED_MAX, TEXT_BYTES_MAX,
};
use lastword_frame::lines::{Decoder, Encoder, Event};
use lastword_frame::verify::Verifier;
use lastword_frame::{Cause, Frame, Note, OutputFile, Seal, Stream};
use proptest::collection::vec;
use proptest::prelude::*;

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

fn assert_lines_fit(bytes: &[u8]) {
    for line in lines(bytes) {
        assert!(line.len() <= LINE_BYTES_MAX - LINE_MAC_ROOM, "a line of {} bytes", line.len());
        let (end, text) = line.split_last().expect("not empty");
        assert!(*end == b'\n' && text.iter().all(|byte| (b' '..=b'~').contains(byte)));
    }
}

/// The frames that a log gives, judged as a transcript.
fn complete(log: &[u8]) -> bool {
    let mut verifier = Verifier::new();
    verifier.push(&to_binary(&decode_lines(log, &[]).0));
    verifier.finish().complete()
}

#[test]
fn a_line_reads_as_the_spec_says() {
    let log = to_lines(&sample::fast_fail());
    let text = String::from_utf8(log).expect("ASCII");
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some(
            "{\"lastword\":1,\"id\":\"01900001-0203-7004-8005-060708090a0b\",\
             \"boot_id\":\"fedcba98-7654-3210-0011-223344556677\",\"wall_ns\":1767225599999999000,\
             \"time\":\"2025-12-31T23:59:59.999999000Z\",\"ordering\":\"exact\",\"tty\":false,\"crc\":\"cddf90ca\"}"
        )
    );
    assert_eq!(
        lines.nth(1),
        Some(
            "{\"seq\":0,\"time\":\"2026-01-01T00:00:00.019999000Z\",\"t\":20000000,\"stream\":\"stdout\",\
             \"log\":\"Before error\\n\"}"
        )
    );
}

/// Valid UTF-8 of any length is never base64, and no character is cut.
#[test]
fn text_stays_text() {
    for unit in ["a", "ä", "€", "𝄞", "\0", "\"", "a€", "\n\u{7f}𝄞x"] {
        for length in [1, 2, 2_700, 8_000, 16_000, 65_536] {
            let text: String = unit.chars().cycle().take(length.max(1)).collect();
            let bytes = &text.as_bytes()[..text.floor_char_boundary(65_536)];
            let log = to_lines(&[output(1, Stream::Stdout, bytes)]);
            assert_lines_fit(&log);
            assert!(!String::from_utf8_lossy(&log).contains("log_b64"), "{unit:?} x {length}");
            let joined = lines(&log).len();
            assert!(joined <= 1 + bytes.len() * 6 / 16_000 + bytes.len() / 16_000, "{joined} lines");
        }
    }
}

/// One value has one spelling, in base64 too: bits that stand for nothing must be zero.
#[test]
fn base64_has_no_spare_bits() {
    for (bytes, right, wrong) in
        [(&b"\xFF"[..], "/w==", "/x=="), (b"\xF0\x9D", "8J0=", "8J1="), (b"\xFF", "/w==", "/w=A")]
    {
        let log = String::from_utf8(to_lines(&[output(1, Stream::Stdout, bytes)])).expect("ASCII");
        assert_eq!(decode_lines(log.as_bytes(), &[]).1, []);
        let changed = log.replace(right, wrong);
        assert_ne!(log, changed);
        assert!(matches!(&decode_lines(changed.as_bytes(), &[]).1[..], [Odd::Damaged(_)]), "{wrong}");
    }
}

/// A read that ends inside a character leaves the rest readable.
#[test]
fn cut_characters_cost_one_short_line() {
    let log = to_lines(&[output(1, Stream::Stdout, b"\x9D\x84\x9E middle \xF0\x9D")]);
    let log = String::from_utf8(log).expect("ASCII");
    let lines: Vec<_> = log.lines().map(|line| line.split_once("\"stdout\",").expect("a stream").1).collect();
    assert_eq!(
        lines,
        [
            "\"log_b64\":\"nYSe\",\"part\":0,\"more\":true}",
            "\"log\":\" middle \",\"part\":1,\"more\":true}",
            "\"log_b64\":\"8J0=\",\"part\":2,\"more\":false}"
        ]
    );
}

/// A program must not be able to have a line written for every two bytes.
#[test]
fn hostile_bytes_make_few_lines() {
    for unit in [&b"\x80a"[..], b"\xFF", b"a\xC3", b"abcdefgh\xFF", b"\xE2\x82", b"\x80\x80\x80a"] {
        let bytes: Vec<u8> = unit.iter().copied().cycle().take(65_536).collect();
        let log = to_lines(&[output(1, Stream::Stdout, &bytes)]);
        assert_lines_fit(&log);
        assert!(lines(&log).len() <= 8, "{unit:?}: {} lines", lines(&log).len());
    }
}

#[test]
fn the_largest_frames_fit() {
    let text = "\u{1}".repeat(TEXT_BYTES_MAX);
    let file = OutputFile { path: vec![1; TEXT_BYTES_MAX], bytes: u64::MAX, blake3: [0xFF; 32] };
    let small = OutputFile { path: b"p".to_vec(), bytes: 1, blake3: [1; 32] };
    for outputs in [vec![file; 3], vec![small; OUTPUT_FILES_MAX]] {
        let cause = Cause::StartFailure { step: text.clone(), errno: i32::MIN, message: text.clone() };
        let seal = Seal { cause, outputs, ..sample::bare_seal() };
        let notes = vec![
            note(0, Note::Arrival { from_seq: 1, why: text.clone() }),
            note(0, Note::OutputRefused { path: vec![1; TEXT_BYTES_MAX], why: text.clone() }),
        ];
        let frames = sealed(begin(), notes, seal);
        let log = to_lines(&frames);
        assert_lines_fit(&log);
        assert_eq!(decode_lines(&log, &[]), (frames, Vec::new()));
    }
}

/// Lines that a transport gives again are told from a second note, and a flood of them costs no memory.
#[test]
fn refused_outputs_that_come_again_are_repeated_and_bounded() {
    let frames = sample::outputs();
    let log = to_lines(&frames);
    let (first, seal) = log.split_at(log.windows(9).position(|at| at == b"{\"output\"").expect("an output"));
    let (decoded, odd) = decode_lines(&[first, first, seal].concat(), &[]);
    assert_eq!(decoded, frames);
    assert_eq!(odd.len(), lines(first).len());
    assert!(odd.iter().all(|odd| matches!(odd, Odd::Repeated(_))), "{odd:?}");
    let notes = |count: u32| {
        let of = |n: u32| note(0, Note::OutputRefused { path: n.to_le_bytes().to_vec(), why: String::new() });
        to_lines(&sealed(begin(), (0..count).map(of).collect(), sample::bare_seal()))
    };
    let most = OUTPUTS_REFUSED_MAX as u32;
    assert_eq!(decode_lines(&notes(most), &[]).1, []);
    assert!(matches!(
        decode_lines(&notes(most + 3), &[]).1[..],
        [Odd::Damaged(_), Odd::Damaged(_), Odd::Damaged(_)]
    ));
}

#[test]
fn injected_lines_are_foreign_and_harmless() {
    let frames = sample::fast_fail();
    let log = to_lines(&frames);
    let mut injected = Vec::new();
    for line in lines(&log) {
        injected.extend_from_slice(b"2026-01-01 kubelet: something\n\n{\"log\":\"x\"}\n");
        injected.extend_from_slice(line);
    }
    let (decoded, odd) = decode_lines(&injected, &[]);
    assert_eq!(decoded, frames);
    assert_eq!(odd.len(), 3 * lines(&log).len());
    assert!(odd.iter().all(|odd| matches!(odd, Odd::Foreign(_))));
    assert!(complete(&injected));
}

#[test]
fn an_endless_line_is_bounded_and_passed_over() {
    let frames = sample::fast_fail();
    let mut log = vec![b'x'; 1_000_000];
    log.push(b'\n');
    log.extend(to_lines(&frames));
    let (decoded, odd) = decode_lines(&log, &[100_000, 999_999, 1_000_000]);
    assert_eq!(decoded, frames);
    assert_eq!(odd, [Odd::Foreign(vec![b'x'; LINE_BYTES_MAX])]);
}

#[test]
fn a_missing_line_is_a_gap() {
    let frames = sample::everything();
    let log = to_lines(&frames);
    let all = lines(&log);
    for missing in 0..all.len() {
        let rest: Vec<u8> =
            all.iter().enumerate().filter(|(at, _)| *at != missing).flat_map(|(_, l)| l.to_vec()).collect();
        let (decoded, odd) = decode_lines(&rest, &[]);
        assert!(decoded.iter().all(|frame| frames.contains(frame)), "line {missing}");
        if all[missing].starts_with(b"{\"seq\":") {
            assert!(
                odd.iter().any(|odd| matches!(odd, Odd::Gap(from, to) if *to == from + 1)),
                "line {missing}"
            );
        }
    }
    let tail: Vec<u8> = [all[0], all[all.len() - 3], all[all.len() - 2], all[all.len() - 1]].concat();
    assert_eq!(decode_lines(&tail, &[]).1, [Odd::Gap(0, 8)], "records missing before the seal");
}

#[test]
fn repeats_are_given_out_once() {
    let frames = sample::everything();
    let log = to_lines(&frames);
    let all = lines(&log);
    let doubled: Vec<u8> = all.iter().flat_map(|line| [*line, *line].concat()).collect();
    let (decoded, odd) = decode_lines(&doubled, &[]);
    assert_eq!(decoded, frames);
    assert_eq!(odd.len(), all.len());
    // A second seal can't be known to be the first one again.
    assert_eq!(odd.iter().filter(|odd| matches!(odd, Odd::Repeated(_))).count(), all.len() - 1);
}

#[test]
fn a_log_without_its_begin_still_gives_its_records() {
    let frames = sample::everything();
    let log = to_lines(&frames);
    let rest = lines(&log)[1..].concat();
    let (decoded, odd) = decode_lines(&rest, &[]);
    assert_eq!((decoded, odd), (frames[1..].to_vec(), Vec::new()));
    assert!(!complete(&lines(&to_lines(&sample::fast_fail()))[1..].concat()));
}

#[test]
fn a_decoder_can_go_on_from_elsewhere() {
    let log = to_lines(&sample::fast_fail());
    let mut decoder = Decoder::resume(begin(), 1);
    decoder.push(&lines(&log)[3..].concat());
    assert!(matches!(decoder.next(), Some(Event::Frame(Frame::Output { seq: 1, .. }))));
    assert_eq!(decoder.next_seq(), 2);
}

#[test]
fn a_mac_field_is_not_version_1() {
    let log = String::from_utf8(to_lines(&sample::fast_fail())).expect("ASCII");
    let with_mac = log.replacen("\\n\"}", "\\n\",\"mac\":\"00\"}", 1);
    assert_ne!(log, with_mac);
    assert!(matches!(&decode_lines(with_mac.as_bytes(), &[]).1[..], [Odd::Damaged(_), Odd::Gap(0, 1)]));
}

/// Every bit of every line counts: nothing is taken for what it is not, and nothing passes for complete.
#[test]
fn every_flipped_bit_of_a_log_shows() {
    let frames = sample::fast_fail();
    let log = to_lines(&frames);
    assert!(complete(&log));
    for at in 0..log.len() {
        for bit in 0..8 {
            let mut flipped = log.clone();
            flipped[at] ^= 1 << bit;
            let (decoded, odd) = decode_lines(&flipped, &[]);
            assert!(decoded != frames || !odd.is_empty(), "bit {bit} of byte {at}");
            // A note's line may be lost without harm to the records; those and the seal may not.
            let record = decoded
                .iter()
                .filter(|frame| !matches!(frame, Owned::Other(Frame::Note { .. })))
                .ne(frames.iter().filter(|frame| !matches!(frame, Owned::Other(Frame::Note { .. }))));
            assert!(!record || !complete(&flipped), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn every_cut_of_a_log_shows() {
    let log = to_lines(&sample::fast_fail());
    for end in 0..log.len() {
        assert!(!complete(&log[..end]), "cut at {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn encoding_and_decoding_is_identity(frames in any_transcript(), cuts in vec(any::<usize>(), 0..20)) {
        let log = to_lines(&frames);
        assert_lines_fit(&log);
        let (decoded, odd) = decode_lines(&log, &cuts);
        prop_assert_eq!(odd, Vec::new());
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn any_bytes_make_lines_that_fit(bytes in any_output(), seq in 0..u64::MAX, time in any::<u64>(), wall in any::<i64>()) {
        let mut log = Vec::new();
        Encoder::resume(wall).encode(&Frame::Output { seq, time, stream: Stream::Stderr, bytes: &bytes }, &mut log);
        assert_lines_fit(&log);
        let (decoded, odd) = decode_lines(&log, &[]);
        prop_assert_eq!(decoded, vec![Owned::Output { seq, time, stream: Stream::Stderr, bytes }]);
        prop_assert_eq!(odd, if seq > 0 { vec![Odd::Gap(0, seq)] } else { Vec::new() });
    }

    /// Damaged, doubled, left out, put elsewhere: what comes out doesn't depend on where the log is split.
    #[test]
    fn splits_change_nothing(
        frames in any_transcript(), order in vec(any::<prop::sample::Index>(), 0..20),
        at in any::<usize>(), mask in any::<u8>(), cuts in vec(any::<usize>(), 0..20),
    ) {
        let log = to_lines(&frames);
        let all = lines(&log);
        let mut mixed: Vec<u8> = order.iter().flat_map(|index| index.get(&all).to_vec()).collect();
        if !mixed.is_empty() {
            let at = at % mixed.len();
            mixed[at] ^= mask;
        }
        let (decoded, odd) = decode_lines(&mixed, &cuts);
        prop_assert_eq!((&decoded, &odd), (&decode_lines(&mixed, &[]).0, &decode_lines(&mixed, &[]).1));
        let seqs: Vec<u64> = decoded.iter().filter_map(|frame| match frame.frame() {
            Frame::Output { seq, .. } | Frame::Dropped { seq, .. } => Some(seq),
            _ => None,
        }).collect();
        prop_assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "each record at most once, in order");
    }
}
