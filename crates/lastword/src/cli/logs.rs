//! `lastword logs`

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::ValueEnum;
use lastword_api::{Stream, Timestamp};
use lastword_store::{Store, Transcript};
use uuid::Uuid;

use super::message::Advice;
use super::output::Output;
use super::print::{Printer, index};
use super::replay::{Content, Record, Replay};
use super::{Globals, find, object, say_incomplete, values};
use crate::execution::{self, Sink};

/// How often a transcript that still grows is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// How often, while following, runs whose runner died are looked for.
const RECOVER_EVERY: Duration = Duration::from_secs(1);
/// Lines that `--tail` remembers the places of.
const TAIL_MAX: u32 = 10_000_000;

/// Print what a program said, byte for byte and in order
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Its stdout goes to stdout and its stderr to stderr, as in `run`; jsonl goes to stdout.

Examples:
  lastword logs 0190a1
  lastword logs 0190a1 --stream stderr --tail 20
  lastword logs 0190a1 -f --timestamps
  lastword logs 0190a1 --format jsonl | jq -r 'select(.stream == \"stderr\") | .log'")]
pub(crate) struct Args {
    /// Its id, or the beginning of it
    id: String,
    #[arg(long, value_enum, default_value_t = Which::Both)]
    stream: Which,
    /// Go on until the program ends
    #[arg(short, long)]
    follow: bool,
    /// Put the time and the stream's name before each line
    #[arg(long)]
    timestamps: bool,
    /// Only what was written since then: 2026-01-31T12:00:00Z, or an age like 10m
    #[arg(long, value_name = "TIME", value_parser = values::point_in_time)]
    since: Option<Timestamp>,
    /// Only what was written before then
    #[arg(long, value_name = "TIME", value_parser = values::point_in_time)]
    until: Option<Timestamp>,
    /// Only the last N lines, of jsonl the last N records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(TAIL_MAX)))]
    tail: Option<u32>,
    /// text is the bytes as they are; jsonl is one object a record
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Stdout,
    Stderr,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Jsonl,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let store = globals.open_store()?;
    let id = find(&store, &args.id)?.id;
    let filter = Filter { which: args.stream, since: args.since, until: args.until };
    let start = match args.tail {
        None => Start::default(),
        Some(count) => tail(&mut store.transcript(id)?, &filter, count as usize, args.format)?,
    };
    let mut writer = Writer::new(args.format, args.timestamps);
    let mut transcript = store.transcript(id)?;
    let mut visit = |record: Record<'_>| {
        if filter.admits(&record)
            && let Some(record) = start.cut(record)
        {
            writer.write(record);
        }
        if writer.is_shut() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    if args.follow {
        follow(&store, id, &mut transcript, &mut visit)?;
    } else {
        let read = Replay::default().read_on(&mut transcript, &mut visit);
        let _ = read.hint(format!("lastword verify {id} says more"))?;
    }
    if let Some(error) = writer.failure() {
        return Err(error);
    }
    if let Some(entry) = store.get(id)? {
        say_incomplete(&object(&entry)?);
    }
    Ok(0)
}

/// Reads on until the transcript is sealed, or its execution has ended without a seal.
pub(super) fn follow(
    store: &Store,
    id: Uuid,
    transcript: &mut Transcript,
    visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let mut replay = Replay::default();
    let mut recovered = Instant::now();
    loop {
        // The end is looked for before the last read: what stood in the spool when it ended is not missed.
        let ended = store.get(id)?.is_none_or(|entry| entry.ended);
        if replay.read_on(transcript, visit)?.is_break() || replay.is_sealed() || ended {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_EVERY);
        if recovered.elapsed() >= RECOVER_EVERY {
            execution::recover(store)?;
            recovered = Instant::now();
        }
    }
}

/// Which records are wanted.
struct Filter {
    which: Which,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    fn admits(&self, record: &Record<'_>) -> bool {
        let stream = match self.which {
            Which::Both => true,
            Which::Stdout => record.stream == Stream::Stdout,
            Which::Stderr => record.stream == Stream::Stderr,
        };
        let time = Timestamp::from_ns(record.time_ns);
        stream && self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
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
struct Start([Place; 2]);

impl Start {
    /// The part of a record that stands behind its stream's start.
    fn cut<'a>(&self, record: Record<'a>) -> Option<Record<'a>> {
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
fn tail(transcript: &mut Transcript, filter: &Filter, count: usize, format: Format) -> anyhow::Result<Start> {
    let mut tail = Tail::new(count, format);
    let _ = Replay::default().read_on(transcript, &mut |record| {
        tail.seq_end = record.seq + 1;
        if filter.admits(&record) {
            tail.add(&record);
        }
        ControlFlow::Continue(())
    })?;
    Ok(tail.start())
}

struct Tail {
    places: VecDeque<(usize, Place)>,
    count: usize,
    format: Format,
    at_line_start: [bool; 2],
    /// The seq after the last record.
    seq_end: u64,
}

impl Tail {
    fn new(count: usize, format: Format) -> Self {
        Self { places: VecDeque::new(), count, format, at_line_start: [true; 2], seq_end: 0 }
    }

    fn add(&mut self, record: &Record<'_>) {
        let stream = index(record.stream);
        let seq = record.seq;
        if self.format == Format::Jsonl {
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
    fn start(&self) -> Start {
        Start([0, 1].map(|stream| {
            let first = self.places.iter().find(|(of, _)| *of == stream);
            first.map_or(Place { seq: self.seq_end, byte: 0 }, |(_, place)| *place)
        }))
    }
}

/// Where records go.
enum Writer {
    Text(Printer),
    Jsonl(Output),
}

impl Writer {
    fn new(format: Format, timestamps: bool) -> Self {
        match format {
            Format::Text => Writer::Text(Printer::new(timestamps)),
            Format::Jsonl => Writer::Jsonl(Output::stdout()),
        }
    }

    fn write(&mut self, record: Record<'_>) {
        match self {
            Writer::Text(printer) => record.to_sink(printer as &mut dyn Sink),
            Writer::Jsonl(output) => output.write(record.to_log().to_line().as_bytes()),
        }
    }

    fn is_shut(&self) -> bool {
        match self {
            Writer::Text(printer) => printer.is_shut(),
            Writer::Jsonl(output) => output.is_shut(),
        }
    }

    fn failure(&self) -> Option<anyhow::Error> {
        match self {
            Writer::Text(printer) => {
                let (stream, error) = printer.failure()?;
                Some(anyhow!(error).context(format!("cannot write to {}", stream.name())))
            }
            Writer::Jsonl(output) => Some(anyhow!(output.failure()?).context("cannot write to stdout")),
        }
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

    fn last(texts: &[(Stream, &str)], count: usize, format: Format) -> Vec<(Stream, String)> {
        let records = records(texts);
        let mut tail = Tail::new(count, format);
        for record in &records {
            tail.seq_end = record.seq + 1;
            tail.add(record);
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
        let text = |count| last(&texts, count, Format::Text);
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
        assert_eq!(last(&texts, 2, Format::Jsonl), [(ERR, "x".into()), (OUT, "c".into())]);
    }

    #[test]
    fn a_filter_looks_at_stream_and_time() {
        let filter = Filter {
            which: Which::Stdout,
            since: Some(Timestamp::from_ns(1)),
            until: Some(Timestamp::from_ns(3)),
        };
        let all = records(&[(OUT, "0"), (OUT, "1"), (ERR, "2"), (OUT, "3")]);
        let admitted: Vec<u64> =
            all.iter().filter(|record| filter.admits(record)).map(|record| record.seq).collect();
        assert_eq!(admitted, [1]);
    }
}
