//! Reads a stored transcript and gives out its records.

pub(crate) mod select;

use std::io::{self, Read};
use std::ops::ControlFlow;

use lastword_api::{Inline, LogRecord, Stream, Timestamp};
use lastword_frame::Frame;
use lastword_frame::binary::{DecodeError, Decoder};

use crate::execution::Sink;

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;

/// One record of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) seq: u64,
    /// Wall clock, nanoseconds since 1970.
    pub(crate) time_ns: i64,
    pub(crate) stream: Stream,
    pub(crate) content: Content<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    /// So many bytes were read and dropped here.
    Dropped(u64),
}

impl Record<'_> {
    pub(crate) fn to_log(self) -> LogRecord {
        let time = Timestamp::from_ns(self.time_ns);
        match self.content {
            Content::Bytes(bytes) => LogRecord::output(self.seq, time, self.stream, bytes),
            Content::Dropped(bytes) => LogRecord::dropped(self.seq, time, self.stream, bytes),
        }
    }

    pub(crate) fn to_sink(self, sink: &mut dyn Sink) {
        match self.content {
            Content::Bytes(bytes) => sink.record(self.stream, self.time_ns, self.seq, bytes),
            Content::Dropped(bytes) => sink.dropped(self.stream, self.time_ns, self.seq, bytes),
        }
    }
}

/// Why a transcript can't be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read the transcript")]
    Read(#[source] io::Error),
    #[error("the transcript is damaged: what follows is not shown")]
    Damaged(#[source] DecodeError),
}

/// A transcript on its way out. It can be read to its present end again and again.
#[derive(Default)]
pub(crate) struct Replay {
    decoder: Decoder,
    wall_ns: i64,
    sealed: bool,
}

impl Replay {
    /// Gives out every whole record up to the present end of `reader`, or until `visit` breaks. The next call goes on behind the
    /// record that was given out last.
    pub(crate) fn read_on(
        &mut self,
        reader: &mut impl Read,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        // Not kept from call to call: a thousand followers that wait would hold as many.
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if self.give_out(visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(ControlFlow::Continue(())),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
    }

    /// What was read and not given out yet.
    fn give_out(
        &mut self,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        while let Some(frame) = self.decoder.next().map_err(Error::Damaged)? {
            let record = match frame {
                Frame::Begin(begin) => {
                    self.wall_ns = begin.wall_ns;
                    continue;
                }
                Frame::Note { .. } => continue,
                Frame::Seal(_) => {
                    self.sealed = true;
                    continue;
                }
                Frame::Output { seq, time, stream, bytes } => {
                    record(self.wall_ns, seq, time, stream, Content::Bytes(bytes))
                }
                Frame::Dropped { seq, time, stream, bytes } => {
                    record(self.wall_ns, seq, time, stream, Content::Dropped(bytes))
                }
            };
            if visit(record).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The seal was read: nothing follows.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed
    }
}

fn record(
    wall_ns: i64,
    seq: u64,
    time: u64,
    stream: lastword_frame::Stream,
    content: Content<'_>,
) -> Record<'_> {
    let time_ns = wall_ns.saturating_add_unsigned(time);
    Record { seq, time_ns, stream: stream.into(), content }
}

/// Collects the beginning of both streams for the execution object.
#[derive(Debug)]
pub(crate) struct Collector {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    output: Vec<u8>,
    max: usize,
}

/// Bytes kept over the maximum, so that the cut can be seen.
const OVER: usize = 1;

impl Collector {
    /// Keeps at most `max` bytes of each stream and of both together.
    pub(crate) fn new(max: usize) -> Self {
        Self { stdout: Vec::new(), stderr: Vec::new(), output: Vec::new(), max }
    }

    pub(crate) fn add(&mut self, stream: Stream, bytes: &[u8]) {
        let keep = self.max.saturating_add(OVER);
        let of_stream = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        for kept in [of_stream, &mut self.output] {
            let room = keep - kept.len();
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// Nothing more can change what [`Collector::into_inline`] gives.
    pub(crate) fn is_full(&self) -> bool {
        [&self.stdout, &self.stderr].iter().all(|kept| kept.len() > self.max)
    }

    pub(crate) fn into_inline(self) -> Inline {
        Inline::new(&self.stdout, &self.stderr, &self.output, self.max)
    }
}

impl Sink for Collector {
    fn record(&mut self, stream: Stream, _time_ns: i64, _seq: u64, bytes: &[u8]) {
        self.add(stream, bytes);
    }

    fn dropped(&mut self, _stream: Stream, _time_ns: i64, _seq: u64, _bytes: u64) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use lastword_frame::binary::encode;
    use lastword_frame::{Begin, Note, Ordering};
    use uuid::Uuid;

    use super::*;

    /// The frames of a run that goes on.
    pub(crate) fn transcript(id: Uuid, records: &[(lastword_frame::Stream, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let begin = Begin {
            version: Begin::VERSION,
            id: *id.as_bytes(),
            boot_id: [2; 16],
            wall_ns: 1_000,
            ordering: Ordering::Exact,
            tty: false,
        };
        encode(&Frame::Begin(begin), &mut bytes);
        encode(&Frame::Note { time: 0, note: Note::Started }, &mut bytes);
        for (seq, (stream, text)) in (0u64..).zip(records) {
            encode(&Frame::Output { seq, time: seq, stream: *stream, bytes: text }, &mut bytes);
        }
        bytes
    }

    #[test]
    fn records_come_out_whole_wherever_the_reader_pauses() {
        use lastword_frame::Stream as S;
        let bytes = transcript(Uuid::nil(), &[(S::Stdout, b"out\n"), (S::Stderr, b"err\n")]);
        for split in 0..bytes.len() {
            let mut replay = Replay::default();
            let mut seen = Vec::new();
            for mut part in [&bytes[..split], &bytes[split..]] {
                let flow = replay.read_on(&mut part, &mut |record| {
                    let Content::Bytes(bytes) = record.content else { panic!("{record:?}") };
                    seen.push((record.time_ns, record.stream, bytes.to_vec()));
                    ControlFlow::Continue(())
                });
                assert!(flow.unwrap().is_continue());
            }
            assert_eq!(
                seen,
                [(1_000, Stream::Stdout, b"out\n".to_vec()), (1_001, Stream::Stderr, b"err\n".to_vec())]
            );
            assert!(!replay.is_sealed());
        }
    }

    #[test]
    fn a_break_loses_nothing() {
        use lastword_frame::Stream as S;
        let bytes = transcript(Uuid::nil(), &[(S::Stdout, b"1"), (S::Stderr, b"2"), (S::Stdout, b"3")]);
        let (mut replay, mut reader, mut seen) = (Replay::default(), &bytes[..], Vec::new());
        let mut one = |replay: &mut Replay| {
            let flow = replay.read_on(&mut reader, &mut |record| {
                seen.push(record.seq);
                ControlFlow::Break(())
            });
            flow.unwrap().is_break()
        };
        assert!(one(&mut replay) && one(&mut replay) && one(&mut replay));
        assert!(!one(&mut replay));
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn damage_is_an_error_after_what_is_good() {
        let mut bytes = transcript(
            Uuid::nil(),
            &[(lastword_frame::Stream::Stdout, b"good"), (lastword_frame::Stream::Stdout, b"bad")],
        );
        *bytes.last_mut().unwrap() ^= 1;
        let mut count = 0;
        let result = Replay::default().read_on(&mut &bytes[..], &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        assert!(matches!(result, Err(Error::Damaged(_))));
        assert_eq!(count, 1);
    }

    #[test]
    fn a_collector_keeps_the_beginning_of_each() {
        let mut collector = Collector::new(4);
        collector.add(Stream::Stdout, b"abc");
        collector.add(Stream::Stderr, b"de");
        let mut longer = Collector { stdout: collector.stdout.clone(), ..Collector::new(4) };
        let inline = collector.into_inline();
        assert_eq!(inline.stdout.as_deref(), Some("abc"));
        assert_eq!(inline.output.as_deref(), Some("abcd"));
        assert!(inline.inline_truncated);
        longer.add(Stream::Stdout, b"d");
        assert!(!longer.into_inline().inline_truncated);
    }
}
