//! `lastword logs`

use std::ops::ControlFlow;

use anyhow::anyhow;
use clap::ValueEnum;
use lastword_api::{Stream, Timestamp};

use super::output::Output;
use super::print::Printer;
use super::{Globals, say_incomplete, values};
use crate::client::Wish;
use crate::execution::Sink;
use crate::replay::Record;
use crate::replay::select::{Filter, Start, Unit};

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

impl Which {
    fn one(self) -> Option<Stream> {
        match self {
            Which::Stdout => Some(Stream::Stdout),
            Which::Stderr => Some(Stream::Stderr),
            Which::Both => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Jsonl,
}

impl Format {
    /// What `--tail` counts.
    fn unit(self) -> Unit {
        match self {
            Format::Text => Unit::Lines,
            Format::Jsonl => Unit::Records,
        }
    }
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<u8> {
    let opened = globals.open()?;
    let executions = opened.executions();
    let id = executions.id(&args.id)?;
    let filter =
        Filter { stream: args.stream.one(), since: args.since, until: args.until, ..Filter::default() };
    let start = match args.tail {
        None => Start::default(),
        Some(count) => executions.tail(id, filter, count, args.format.unit())?,
    };
    let mut writer = Writer::new(args.format, args.timestamps);
    let mut visit = |record: Record<'_>| {
        if let Some(record) = start.cut(record) {
            writer.write(record);
        }
        if writer.is_shut() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let from_seq = Some(start.first_seq()).filter(|seq| *seq > 0);
    let wish = Wish { filter: Filter { from_seq, ..filter }, follow: args.follow, tail: None };
    let execution = executions.records(id, wish, &mut visit)?;
    if let Some(error) = writer.failure() {
        return Err(error);
    }
    execution.iter().for_each(say_incomplete);
    Ok(0)
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
