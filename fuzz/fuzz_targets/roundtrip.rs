//! Frames made from the input come back from both encodings as they were, and every line fits.
#![no_main]

use lastword_frame::limits::{LINE_BYTES_MAX, LINE_MAC_ROOM, OUTPUT_BYTES_MAX};
use lastword_frame::{
    Begin, Cause, Exit, Frame, Note, Ordering, OutputFile, Seal, Stream, StreamEnd, StreamSeal, Usage,
};
use lastword_fuzz::{Owned, decode_binary, decode_lines, pieces, to_binary, to_lines};
use libfuzzer_sys::fuzz_target;

/// Takes values off the front of the input; zeros when there is no more.
struct Source<'a> {
    rest: &'a [u8],
    /// Bytes of output and texts that it may still make. Large inputs would cost more than they find.
    room: usize,
}

impl<'a> Source<'a> {
    fn u8(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.u8())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn option(&mut self) -> Option<u64> {
        (self.u8() & 1 == 1).then(|| self.u64())
    }

    fn stream(&mut self) -> Stream {
        Stream::ALL[usize::from(self.u8() & 1)]
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let (wanted, times) =
            (usize::from(self.u8()), usize::from(self.u8()) * usize::from(self.u8()) / 8 + 1);
        let (taken, rest) = self.rest.split_at(wanted.min(self.rest.len()));
        self.rest = rest;
        let length = (taken.len() * times).min(max).min(self.room);
        self.room -= length;
        taken.iter().copied().cycle().take(length).collect()
    }

    fn text(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.bytes(1200)).into_owned();
        text[..text.floor_char_boundary(4096)].to_owned()
    }

    fn ordering(&mut self) -> Ordering {
        if self.u8() & 1 == 0 { Ordering::Exact } else { Ordering::Arrival }
    }

    fn begin(&mut self) -> Begin {
        Begin {
            version: Begin::VERSION,
            id: self.array(),
            boot_id: self.array(),
            wall_ns: i64::from_le_bytes(self.array()),
            ordering: self.ordering(),
            tty: self.u8() & 1 == 1,
        }
    }

    /// `count` is another for each, so that no path is refused twice.
    fn note(&mut self, kind: u8, count: usize) -> Note {
        match kind {
            0 => Note::Started,
            1 => Note::Arrival { from_seq: self.u64(), why: self.text() },
            2 => Note::MainEnded,
            5 => {
                let mut path = self.bytes(4000);
                path.extend_from_slice(&count.to_le_bytes());
                Note::OutputRefused { path, why: self.text() }
            }
            kind => Note::StreamEnd { stream: Stream::ALL[usize::from(kind & 1)] },
        }
    }

    fn stream_seal(&mut self) -> StreamSeal {
        let end = [StreamEnd::Eof, StreamEnd::LeakedWriter, StreamEnd::Cut][usize::from(self.u8() % 3)];
        StreamSeal { bytes: self.u64(), dropped: self.u64(), blake3: self.array(), end }
    }

    fn cause(&mut self) -> Cause {
        match self.u8() % 11 {
            0 => Cause::Ended,
            1 => Cause::WallTime,
            2 => Cause::CpuTime,
            3 => Cause::OutputLimit,
            4 => Cause::Cancelled,
            5 => Cause::StorageFull,
            6 => Cause::StartFailure {
                step: self.text(),
                errno: i32::from_le_bytes(self.array()),
                message: self.text(),
            },
            7 => Cause::DiskLimit,
            8 => Cause::CompileFailed,
            9 => Cause::ImageUnavailable { message: self.text() },
            _ => Cause::Internal { message: self.text() },
        }
    }

    fn seal(&mut self, time: u64, records: u64) -> Seal {
        Seal {
            time,
            records,
            streams: [self.stream_seal(), self.stream_seal()],
            order_blake3: self.array(),
            ordering: self.ordering(),
            exact_until_seq: self.option(),
            cause: self.cause(),
            exit: match self.u8() % 3 {
                0 => Exit::None,
                1 => Exit::Code(self.u8()),
                _ => Exit::Signal(self.u8()),
            },
            started: self.option(),
            ended: self.option(),
            usage: Usage {
                wall_ns: self.u64(),
                cpu_user_ns: self.option(),
                cpu_system_ns: self.option(),
                memory_peak_bytes: self.option(),
                processes_peak: self.option(),
                processes_sampled: self.u8() & 1 == 1,
                oom_kills: self.option(),
            },
            outputs: (0..self.u8() % 4)
                .map(|_| OutputFile { path: self.bytes(4096), bytes: self.u64(), blake3: self.array() })
                .collect(),
        }
    }

    /// A transcript in which times don't go back and every kind of note but one stands once at most.
    fn transcript(&mut self) -> Vec<Owned> {
        let mut frames = vec![Owned::of(Frame::Begin(self.begin()))];
        let (mut seq, mut time, mut noted) = (0, 0u64, [false; 5]);
        while !self.rest.is_empty() && frames.len() < 50 {
            let kind = self.u8();
            time = time.saturating_add(self.u64() >> (kind >> 2));
            match kind % 4 {
                0 | 1 => {
                    let (stream, bytes) = (self.stream(), self.bytes(OUTPUT_BYTES_MAX));
                    if !bytes.is_empty() {
                        frames.push(Owned::Output { seq, time, stream, bytes });
                        seq += 1;
                    }
                }
                2 => {
                    let (stream, bytes) = (self.stream(), self.u64().max(1));
                    frames.push(Owned::of(Frame::Dropped { seq, time, stream, bytes }));
                    seq += 1;
                }
                _ => {
                    let kind = self.u8() % 6;
                    let known = noted.get_mut(usize::from(kind));
                    if !known.is_some_and(|noted| std::mem::replace(noted, true)) {
                        let note = self.note(kind, frames.len());
                        frames.push(Owned::of(Frame::Note { time, note }));
                    }
                }
            }
            if kind > 250 {
                frames.push(Owned::of(Frame::Seal(self.seal(time, seq))));
                break;
            }
        }
        frames
    }
}

fuzz_target!(|data: &[u8]| {
    let frames = Source { rest: data, room: 24 * 1024 }.transcript();
    let bytes = to_binary(&frames);
    assert_eq!(decode_binary(&pieces(&bytes)), (frames.clone(), None, bytes.len() as u64));
    let log = to_lines(&frames);
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        assert!(line.len() <= LINE_BYTES_MAX - LINE_MAC_ROOM, "a line of {} bytes", line.len());
        assert!(line[..line.len() - 1].iter().all(|byte| (b' '..=b'~').contains(byte)));
    }
    assert_eq!(decode_lines(&pieces(&log)), (frames, Vec::new()));
});
