//! Transcripts to test with: one by hand that has every kind of frame, and generated ones.

use lastword_frame::limits::TEXT_BYTES_MAX;
use lastword_frame::lines::{Decoder, Encoder, Event};
use lastword_frame::tally::Tally;
use lastword_frame::{
    Begin, Cause, Exit, Frame, Note, Ordering, OutputFile, Seal, Stream, StreamEnd, StreamSeal, Usage, binary,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// A frame that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a test holds few")]
pub(crate) enum Owned {
    Output { seq: u64, time: u64, stream: Stream, bytes: Vec<u8> },
    Other(Frame<'static>),
}

impl Owned {
    pub(crate) fn of(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Output { seq, time, stream, bytes } => {
                Owned::Output { seq, time, stream, bytes: bytes.to_vec() }
            }
            Frame::Begin(begin) => Owned::Other(Frame::Begin(begin)),
            Frame::Dropped { seq, time, stream, bytes } => {
                Owned::Other(Frame::Dropped { seq, time, stream, bytes })
            }
            Frame::Note { time, note } => Owned::Other(Frame::Note { time, note }),
            Frame::Seal(seal) => Owned::Other(Frame::Seal(seal)),
        }
    }

    pub(crate) fn frame(&self) -> Frame<'_> {
        match self {
            Owned::Output { seq, time, stream, bytes } => {
                Frame::Output { seq: *seq, time: *time, stream: *stream, bytes }
            }
            Owned::Other(frame) => frame.clone(),
        }
    }
}

pub(crate) fn begin() -> Begin {
    Begin {
        version: Begin::VERSION,
        id: *b"\x01\x90\x00\x01\x02\x03\x70\x04\x80\x05\x06\x07\x08\x09\x0A\x0B",
        boot_id: *b"\xFE\xDC\xBA\x98\x76\x54\x32\x10\x00\x11\x22\x33\x44\x55\x66\x77",
        wall_ns: 1_767_225_599_999_999_000,
        ordering: Ordering::Exact,
        tty: false,
    }
}

pub(crate) fn bare_seal() -> Seal {
    let stream = StreamSeal { bytes: 0, dropped: 0, blake3: [0; 32], end: StreamEnd::Eof };
    Seal {
        time: 0,
        records: 0,
        streams: [stream.clone(), stream],
        order_blake3: [0; 32],
        ordering: Ordering::Exact,
        exact_until_seq: None,
        cause: Cause::Ended,
        exit: Exit::Code(0),
        started: None,
        ended: None,
        usage: Usage::default(),
        outputs: Vec::new(),
    }
}

/// Numbers the records, and puts `begin` before and a seal that fits behind.
pub(crate) fn sealed(begin: Begin, middle: Vec<Owned>, seal: Seal) -> Vec<Owned> {
    let (mut tally, mut next) = (Tally::new(), 0);
    let mut frames = vec![Owned::Other(Frame::Begin(begin))];
    for mut frame in middle {
        match &mut frame {
            Owned::Output { seq, time, stream, bytes } => {
                *seq = next;
                tally.output(*seq, *time, *stream, bytes);
                next += 1;
            }
            Owned::Other(Frame::Dropped { seq, time, stream, bytes }) => {
                *seq = next;
                tally.dropped(*seq, *time, *stream, *bytes);
                next += 1;
            }
            Owned::Other(_) => {}
        }
        frames.push(frame);
    }
    let streams = Stream::ALL.map(|stream| {
        let (bytes, dropped, blake3) = tally.stream(stream);
        StreamSeal { bytes, dropped, blake3, end: seal.streams[stream.index()].end }
    });
    let seal = Seal { records: next, streams, order_blake3: tally.order_blake3(), ..seal };
    frames.push(Owned::Other(Frame::Seal(seal)));
    frames
}

pub(crate) fn output(time: u64, stream: Stream, bytes: &[u8]) -> Owned {
    Owned::Output { seq: 0, time, stream, bytes: bytes.to_vec() }
}

pub(crate) fn note(time: u64, note: Note) -> Owned {
    Owned::Other(Frame::Note { time, note })
}

/// `Before error` and a traceback: what the project is for.
pub(crate) fn fast_fail() -> Vec<Owned> {
    let middle = vec![
        note(1_000, Note::Started),
        output(20_000_000, Stream::Stdout, b"Before error\n"),
        output(
            20_100_000,
            Stream::Stderr,
            b"Traceback (most recent call last):\nZeroDivisionError: division by zero\n",
        ),
        note(21_000_000, Note::MainEnded),
        note(21_000_100, Note::StreamEnd { stream: Stream::Stdout }),
        note(21_000_100, Note::StreamEnd { stream: Stream::Stderr }),
    ];
    let seal = Seal {
        time: 21_100_000,
        exit: Exit::Code(1),
        started: Some(1_000),
        ended: Some(21_000_000),
        ..bare_seal()
    };
    sealed(begin(), middle, seal)
}

/// Every kind of frame, every odd kind of bytes.
pub(crate) fn everything() -> Vec<Owned> {
    let long: Vec<u8> =
        (0..40_000u32).flat_map(|n| format!("line {n} äö€𝄞\t\"\\\n").into_bytes()).take(65_536).collect();
    let binary: Vec<u8> = (0..30_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let middle = vec![
        note(10, Note::Started),
        output(11, Stream::Stdout, b"plain \"quoted\" back\\slash\ttab\r\n"),
        output(12, Stream::Stderr, "ümlaut € 𝄞 \u{7f}\0\u{1b}[31m".as_bytes()),
        output(13, Stream::Stdout, b"{\"seq\":0,\"stream\":\"stderr\",\"log\":\"forged\"}\n"),
        output(1_000_000, Stream::Stdout, &long),
        output(1_000_001, Stream::Stdout, b"\x9D\x84\x9E after a cut character, before one \xF0\x9D"),
        output(1_000_002, Stream::Stderr, &binary),
        output(1_000_003, Stream::Stderr, b"\xFF"),
        note(1_000_004, Note::Arrival { from_seq: 7, why: "bytes came “unannounced”".to_owned() }),
        Owned::Other(Frame::Dropped { seq: 0, time: 1_000_005, stream: Stream::Stderr, bytes: 1 << 40 }),
        note(1_000_006, Note::MainEnded),
        note(1_000_006, Note::StreamEnd { stream: Stream::Stdout }),
    ];
    let mut seal = Seal {
        time: 61_000_000_000,
        ordering: Ordering::Arrival,
        exact_until_seq: Some(7),
        cause: Cause::StartFailure {
            step: "mount /usr".to_owned(),
            errno: -1,
            message: "no ünit\n".to_owned(),
        },
        exit: Exit::Signal(9),
        started: Some(10),
        ended: Some(1_000_006),
        usage: Usage {
            wall_ns: 999_996,
            cpu_user_ns: Some(1),
            cpu_system_ns: Some(0),
            memory_peak_bytes: Some(u64::MAX),
            processes_peak: None,
            processes_sampled: true,
            oom_kills: Some(3),
        },
        outputs: vec![
            OutputFile { path: b"out/a.txt".to_vec(), bytes: 12, blake3: [0xAB; 32] },
            OutputFile { path: b"out/\xFF\n".to_vec(), bytes: 0, blake3: [0; 32] },
        ],
        ..bare_seal()
    };
    seal.streams[1].end = StreamEnd::LeakedWriter;
    sealed(begin(), middle, seal)
}

/// A compiler that said no, and outputs that were kept and refused.
pub(crate) fn outputs() -> Vec<Owned> {
    let refused =
        |path: &[u8], why: &str| note(30, Note::OutputRefused { path: path.to_vec(), why: why.to_owned() });
    let middle = vec![
        output(20, Stream::Stderr, b"error: expected `;`\n"),
        note(25, Note::MainEnded),
        note(26, Note::StreamEnd { stream: Stream::Stdout }),
        note(26, Note::StreamEnd { stream: Stream::Stderr }),
        refused(b"out/link", "it is a symbolic link"),
        refused(b"out/\xFF\n", "its name has a control character"),
        refused(b"", "3 more were refused"),
    ];
    let seal = Seal {
        time: 40,
        cause: Cause::CompileFailed,
        exit: Exit::Code(1),
        ended: Some(25),
        outputs: vec![OutputFile { path: b"out/a.txt".to_vec(), bytes: 12, blake3: [0xAB; 32] }],
        ..bare_seal()
    };
    sealed(begin(), middle, seal)
}

/// Nothing ran, for want of an image.
pub(crate) fn no_image() -> Vec<Owned> {
    let cause = Cause::ImageUnavailable { message: "no such tag: “nope”".to_owned() };
    sealed(begin(), Vec::new(), Seal { cause, exit: Exit::None, ..bare_seal() })
}

/// [`everything`] without what is long: a seed for the fuzzers, too.
pub(crate) fn kinds() -> Vec<Owned> {
    let mut frames = everything();
    let Some(Owned::Other(Frame::Seal(seal))) = frames.pop() else { unreachable!() };
    frames.retain(|frame| !matches!(frame, Owned::Output { bytes, .. } if bytes.len() > 1000));
    sealed(begin(), frames.split_off(1), seal)
}

pub(crate) fn to_binary(frames: &[Owned]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| binary::encode(&frame.frame(), &mut out));
    out
}

pub(crate) fn to_lines(frames: &[Owned]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    frames.iter().for_each(|frame| encoder.encode(&frame.frame(), &mut out));
    out
}

/// Cuts `bytes` where `cuts` say, taken modulo the length.
pub(crate) fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// All frames, and the error if there was one.
pub(crate) fn decode_binary(bytes: &[u8], cuts: &[usize]) -> (Vec<Owned>, Option<binary::DecodeError>, u64) {
    let (mut decoder, mut frames) = (binary::Decoder::new(), Vec::new());
    for piece in pieces(bytes, cuts) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(Owned::of(frame)),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(), Err(error.clone()), "an error must stay");
                    return (frames, Some(error), decoder.offset());
                }
            }
        }
    }
    (frames, None, decoder.offset())
}

/// What else than frames was in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Odd {
    Foreign(Vec<u8>),
    Damaged(Vec<u8>),
    Gap(u64, u64),
    Repeated(Vec<u8>),
}

pub(crate) fn decode_lines(bytes: &[u8], cuts: &[usize]) -> (Vec<Owned>, Vec<Odd>) {
    let (mut decoder, mut frames, mut odd) = (Decoder::new(), Vec::new(), Vec::new());
    for piece in pieces(bytes, cuts) {
        decoder.push(piece);
        while let Some(event) = decoder.next() {
            match event {
                Event::Frame(frame) => frames.push(Owned::of(frame)),
                Event::Foreign(line) => odd.push(Odd::Foreign(line.to_vec())),
                Event::Damaged { line, .. } => odd.push(Odd::Damaged(line.to_vec())),
                Event::Gap { from, to } => odd.push(Odd::Gap(from, to)),
                Event::Repeated(line) => odd.push(Odd::Repeated(line.to_vec())),
            }
        }
    }
    (frames, odd)
}

fn any_stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

/// Program output: text, text with cut characters, binary, lengths around every limit.
pub(crate) fn any_output() -> impl Strategy<Value = Vec<u8>> {
    let text =
        vec(prop_oneof![4 => any::<char>(), 4 => proptest::char::range(' ', '~'), 1 => Just('\n')], 1..200)
            .prop_map(|characters| characters.into_iter().collect::<String>().into_bytes());
    let repeated = (vec(any::<u8>(), 1..20), 1..66_000usize)
        .prop_map(|(unit, length)| unit.iter().copied().cycle().take(length.min(65_536)).collect());
    let cut_text =
        (any::<char>(), any::<char>(), 0..4usize, 1..66_000usize).prop_map(|(one, two, skip, length)| {
            let unit = format!("{one}{two}x").into_bytes();
            unit.into_iter().cycle().skip(skip).take(length.min(65_536)).collect()
        });
    prop_oneof![4 => text, 2 => vec(any::<u8>(), 1..200), 1 => repeated, 1 => cut_text]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![4 => ".{0,40}", 1 => (any::<char>(), 0..1100usize).prop_map(|(c, n)| c.to_string().repeat(n.min(TEXT_BYTES_MAX / c.len_utf8())))]
}

fn any_cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        Just(Cause::Ended),
        Just(Cause::WallTime),
        Just(Cause::CpuTime),
        Just(Cause::OutputLimit),
        Just(Cause::Cancelled),
        Just(Cause::StorageFull),
        (any_text(), any::<i32>(), any_text()).prop_map(|(step, errno, message)| Cause::StartFailure {
            step,
            errno,
            message
        }),
        any_text().prop_map(|message| Cause::Internal { message }),
        Just(Cause::DiskLimit),
        Just(Cause::CompileFailed),
        any_text().prop_map(|message| Cause::ImageUnavailable { message }),
    ]
}

fn any_exit() -> impl Strategy<Value = Exit> {
    prop_oneof![Just(Exit::None), any::<u8>().prop_map(Exit::Code), any::<u8>().prop_map(Exit::Signal)]
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let option = any::<Option<u64>>;
    (any::<u64>(), option(), option(), option(), option(), any::<bool>(), option()).prop_map(
        |(
            wall_ns,
            cpu_user_ns,
            cpu_system_ns,
            memory_peak_bytes,
            processes_peak,
            processes_sampled,
            oom_kills,
        )| Usage {
            wall_ns,
            cpu_user_ns,
            cpu_system_ns,
            memory_peak_bytes,
            processes_peak,
            processes_sampled,
            oom_kills,
        },
    )
}

fn any_seal() -> impl Strategy<Value = Seal> {
    let file = (vec(any::<u8>(), 0..50), any::<u64>(), any::<[u8; 32]>())
        .prop_map(|(path, bytes, blake3)| OutputFile { path, bytes, blake3 });
    (any_cause(), any_exit(), any_usage(), any::<[Option<u64>; 3]>(), vec(file, 0..4), any::<bool>())
        .prop_map(|(cause, exit, usage, [started, ended, until], outputs, arrival)| Seal {
            ordering: if arrival { Ordering::Arrival } else { Ordering::Exact },
            exact_until_seq: until.filter(|_| arrival),
            cause,
            exit,
            started,
            ended,
            usage,
            outputs,
            ..bare_seal()
        })
}

/// A whole transcript, sealed rightly. Each kind of note at most once.
pub(crate) fn any_transcript() -> impl Strategy<Value = Vec<Owned>> {
    let body = prop_oneof![
        6 => (any_stream(), any_output()).prop_map(|(stream, bytes)| Owned::Output { seq: 0, time: 0, stream, bytes }),
        1 => (any_stream(), 1..u64::MAX / 16).prop_map(|(stream, bytes)| Owned::Other(Frame::Dropped { seq: 0, time: 0, stream, bytes })),
    ];
    let refused = proptest::collection::btree_map(vec(any::<u8>(), 0..50), any_text(), 0..4);
    let heads = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<i64>(), any::<bool>());
    (heads, vec((body, 0..2_000_000_000u64), 0..12), any_text(), refused, any_seal()).prop_map(
        |(head, body, why, refused, mut seal)| {
            let (id, boot_id, wall_ns, tty) = head;
            let begin = Begin { id, boot_id, wall_ns, tty, ordering: seal.ordering, ..begin() };
            let mut clock = 0;
            let mut middle = vec![note(0, Note::Started), note(0, Note::Arrival { from_seq: 0, why })];
            if seal.ordering == Ordering::Exact {
                middle.pop();
            }
            seal.exact_until_seq = None;
            for (mut frame, step) in body {
                clock += step;
                match &mut frame {
                    Owned::Output { time, .. } | Owned::Other(Frame::Dropped { time, .. }) => *time = clock,
                    Owned::Other(_) => {}
                }
                middle.push(frame);
            }
            middle.push(note(clock, Note::MainEnded));
            middle.extend(Stream::ALL.map(|stream| note(clock, Note::StreamEnd { stream })));
            middle.extend(
                refused.into_iter().map(|(path, why)| note(clock, Note::OutputRefused { path, why })),
            );
            seal.time = clock;
            sealed(begin, middle, seal)
        },
    )
}
