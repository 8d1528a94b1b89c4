//! Which part of a transcript is wanted: by stream, time and seq, and its last lines.

use std::collections::VecDeque;
use std::io::Read;
use std::ops::ControlFlow;

use lastword_api::{Stream, Timestamp};

use super::{Content, Error, Record, Replay};

/// Which records are wanted. `None` wants all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) stream: Option<Stream>,
    /// At or after.
    pub(crate) since: Option<Timestamp>,
    /// Before.
    pub(crate) until: Option<Timestamp>,
    /// At or after.
    pub(crate) from_seq: Option<u64>,
    /// Before.
    pub(crate) before_seq: Option<u64>,
}

impl Filter {
    pub(crate) fn admits(&self, record: &Record<'_>) -> bool {
        let time = Timestamp::from_ns(record.time_ns);
        self.stream.is_none_or(|stream| record.stream == stream)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
            && self.from_seq.is_none_or(|seq| record.seq >= seq)
            && self.before_seq.is_none_or(|seq| record.seq < seq)
    }

    /// No later record can be admitted: seqs only grow. Times are the machine's clock, which may be set back.
    pub(crate) fn is_behind(&self, record: &Record<'_>) -> bool {
        self.before_seq.is_some_and(|seq| record.seq >= seq)
    }
}

/// What a tail counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Lines,
    Records,
}

pub(crate) fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// A place in a transcript: a record, and a byte in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    seq: u64,
    byte: usize,
}

/// Where each stream begins to be printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start([Place; 2]);

impl Start {
    /// Nothing before this seq is printed.
    pub(crate) fn first_seq(&self) -> u64 {
        self.0.iter().map(|place| place.seq).min().unwrap_or(0)
    }

    /// The part of a record that stands behind its stream's start.
    pub(crate) fn cut<'a>(&self, record: Record<'a>) -> Option<Record<'a>> {
        let start = self.0[index(record.stream)];
        match (record.seq.cmp(&start.seq), record.content) {
            (std::cmp::Ordering::Less, _) => None,
            (std::cmp::Ordering::Equal, Content::Bytes(bytes)) => {
                let content = Content::Bytes(bytes.get(start.byte..)?);
                Some(Record { content, ..record })
            }
            _ => Some(record),
        }
    }
}

/// Where the last `count` lines, or records, begin. Lines of both streams count by where they begin.
pub(crate) fn tail(
    transcript: &mut impl Read,
    filter: &Filter,
    count: usize,
    unit: Unit,
) -> Result<Start, Error> {
    let mut tail = Tail::new(count, unit);
    let _ = Replay::default().read_on(transcript, &mut |record| {
        tail.seq_end = record.seq + 1;
        if filter.admits(&record) {
            tail.take(&record);
        }
        ControlFlow::Continue(())
    })?;
    Ok(tail.start())
}

/// Remembers where the last lines, or records, of those that it is given begin.
pub(crate) struct Tail {
    places: VecDeque<(usize, Place)>,
    count: usize,
    unit: Unit,
    at_line_start: [bool; 2],
    /// The seq after the last record.
    seq_end: u64,
}

impl Tail {
    pub(crate) fn new(count: usize, unit: Unit) -> Self {
        Self { places: VecDeque::new(), count, unit, at_line_start: [true; 2], seq_end: 0 }
    }

    pub(crate) fn take(&mut self, record: &Record<'_>) {
        self.seq_end = self.seq_end.max(record.seq + 1);
        let stream = index(record.stream);
        let seq = record.seq;
        if self.unit == Unit::Records {
            return self.begins(stream, Place { seq, byte: 0 });
        }
        let Content::Bytes(bytes) = record.content else { return };
        if std::mem::replace(&mut self.at_line_start[stream], bytes.ends_with(b"\n")) {
            self.begins(stream, Place { seq, byte: 0 });
        }
        let inner = bytes.len().saturating_sub(1);
        for (at, _) in bytes[..inner].iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            self.begins(stream, Place { seq, byte: at + 1 });
        }
    }

    fn begins(&mut self, stream: usize, place: Place) {
        self.places.push_back((stream, place));
        if self.places.len() > self.count {
            self.places.pop_front();
        }
    }

    /// A stream none of whose lines is among the last begins after the present end.
    pub(crate) fn start(&self) -> Start {
        Start([0, 1].map(|stream| {
            let first = self.places.iter().find(|(of, _)| *of == stream);
            first.map_or(Place { seq: self.seq_end, byte: 0 }, |(_, place)| *place)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Stream = Stream::Stdout;
    const ERR: Stream = Stream::Stderr;

    fn records<'a>(texts: &[(Stream, &'a str)]) -> Vec<Record<'a>> {
        let record = |(seq, (stream, text)): (u64, &(Stream, &'a str))| Record {
            seq,
            time_ns: seq as i64,
            stream: *stream,
            content: Content::Bytes(text.as_bytes()),
        };
        (0..).zip(texts).map(record).collect()
    }

    fn last(texts: &[(Stream, &str)], count: usize, unit: Unit) -> Vec<(Stream, String)> {
        let records = records(texts);
        let mut tail = Tail::new(count, unit);
        for record in &records {
            tail.take(record);
        }
        let start = tail.start();
        let cut = records.into_iter().filter_map(|record| start.cut(record));
        cut.map(|record| match record.content {
            Content::Bytes(bytes) => (record.stream, String::from_utf8(bytes.to_vec()).unwrap()),
            Content::Dropped(_) => panic!("{record:?}"),
        })
        .collect()
    }

    #[test]
    fn the_last_lines_of_both_streams() {
        let texts = [(OUT, "a\nb"), (ERR, "x\ny\n"), (OUT, "c\nd\n"), (ERR, "z")];
        let text = |count| last(&texts, count, Unit::Lines);
        assert_eq!(text(0), []);
        assert_eq!(text(1), [(ERR, "z".into())]);
        assert_eq!(text(2), [(OUT, "d\n".into()), (ERR, "z".into())]);
        assert_eq!(text(3), [(ERR, "y\n".into()), (OUT, "d\n".into()), (ERR, "z".into())]);
        // "bc" began before x and y did.
        assert_eq!(
            text(5),
            [(OUT, "b".into()), (ERR, "x\ny\n".into()), (OUT, "c\nd\n".into()), (ERR, "z".into())]
        );
        assert_eq!(text(100).len(), 4);
    }

    #[test]
    fn the_last_records() {
        let texts = [(OUT, "a\nb\n"), (ERR, "x"), (OUT, "c")];
        assert_eq!(last(&texts, 2, Unit::Records), [(ERR, "x".into()), (OUT, "c".into())]);
    }

    #[test]
    fn a_filter_looks_at_stream_and_time() {
        let filter = Filter {
            stream: Some(OUT),
            since: Some(Timestamp::from_ns(1)),
            until: Some(Timestamp::from_ns(3)),
            ..Filter::default()
        };
        let all = records(&[(OUT, "0"), (OUT, "1"), (ERR, "2"), (OUT, "3")]);
        let admitted: Vec<u64> =
            all.iter().filter(|record| filter.admits(record)).map(|record| record.seq).collect();
        assert_eq!(admitted, [1]);
    }

    #[test]
    fn a_filter_looks_at_seqs() {
        let filter = Filter { from_seq: Some(1), before_seq: Some(3), ..Filter::default() };
        let all = records(&[(OUT, "0"), (OUT, "1"), (ERR, "2"), (OUT, "3")]);
        let seqs = |keep: &dyn Fn(&Record<'_>) -> bool| -> Vec<u64> {
            all.iter().filter(|record| keep(record)).map(|record| record.seq).collect()
        };
        assert_eq!(seqs(&|record| filter.admits(record)), [1, 2]);
        assert_eq!(seqs(&|record| filter.is_behind(record)), [3]);
    }
}
