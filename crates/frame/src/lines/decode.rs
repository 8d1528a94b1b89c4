//! Lines to frames, with what a log transport does to them reported beside.

use super::clock::Clock;
use super::parse::{Line, parse};
use super::scan::Wrong;
use crate::limits::{
    LINE_BYTES_MAX, OUTPUT_BYTES_MAX, OUTPUT_FILES_MAX, OUTPUT_LIST_BYTES_MAX, OUTPUTS_REFUSED_MAX,
};
use crate::payload::OUTPUT_FILE_FIXED_BYTES;
use crate::record::{Begin, Frame, Note, Stream};
use crate::seal::{OutputFile, Seal};

/// Push decoder: takes a log in any pieces, gives frames and what else was there. Nothing is fatal.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that are done with.
    taken: usize,
    /// Bytes after those that hold no newline.
    searched: usize,
    /// Inside a line over the limit, whose beginning was reported.
    skipping: bool,
    state: State,
    /// The record in hand: parts are joined here.
    record: Vec<u8>,
}

/// One thing found in a log.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one event lives at a time")]
pub enum Event<'a> {
    Frame(Frame<'a>),
    /// Not a line of ours: the transport's, or another program's. At most its first [`LINE_BYTES_MAX`] bytes.
    Foreign(&'a [u8]),
    /// Begins as a line of ours and isn't right. What it held is missing, a record's seq shows as a gap later on.
    Damaged {
        line: &'a [u8],
        why: &'static str,
    },
    /// Records from `from` to before `to` are missing or are not there whole.
    Gap {
        from: u64,
        to: u64,
    },
    /// A line of what was given out, or given up, before.
    Repeated(&'a [u8]),
}

#[derive(Debug, Default)]
struct State {
    clock: Option<Clock>,
    begin: Option<Begin>,
    /// The seq that the next record must have.
    seq: u64,
    partial: Option<Partial>,
    outputs: Vec<OutputFile>,
    outputs_bytes: usize,
    notes_seen: [bool; 5],
    /// BLAKE3 of the paths of refused outputs, by which a line that came again is known.
    refused: Vec<[u8; 32]>,
    sealed: bool,
}

/// A record of which some parts are there.
#[derive(Clone, Copy, Debug)]
struct Partial {
    time: u64,
    stream: Stream,
    next: u64,
}

/// What becomes of a line.
enum Step {
    /// The record in the buffer is whole.
    Output {
        seq: u64,
        time: u64,
        stream: Stream,
    },
    Frame(Box<Frame<'static>>),
    /// Nothing to report.
    Silent,
    Repeated,
    /// Reported before the line is looked at again.
    Gap {
        to: u64,
    },
}

impl Step {
    fn frame(frame: Frame<'static>) -> Self {
        Step::Frame(Box::new(frame))
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    pub fn new() -> Self {
        Decoder {
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            skipping: false,
            state: State::default(),
            record: Vec::new(),
        }
    }

    /// A decoder for the rest of a log whose begin is known from elsewhere, from record `seq` on.
    pub fn resume(begin: Begin, seq: u64) -> Self {
        let mut decoder = Self::new();
        decoder.state.clock = Some(Clock::new(begin.wall_ns));
        decoder.state.begin = Some(begin);
        decoder.state.seq = seq;
        decoder
    }

    /// Adds bytes. Call [`Decoder::next`] until `None` after every push: it holds what was not consumed.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken >= self.buffer.len() - self.taken {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of a last line without a newline.
    pub fn unfinished(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    /// The seq of the first record that wasn't given out or given up.
    pub fn next_seq(&self) -> u64 {
        self.state.seq
    }

    /// The next event, or `None` when more bytes are needed.
    #[expect(
        clippy::should_implement_trait,
        reason = "events borrow from the decoder, which an Iterator can't say"
    )]
    pub fn next(&mut self) -> Option<Event<'_>> {
        loop {
            let (start, end) = match self.line()? {
                Found::Line { start, end } => (start, end),
                Found::Overlong { start, end } => return Some(Event::Foreign(&self.buffer[start..end])),
            };
            let line = &self.buffer[start..end];
            let kept = self.record.len();
            let step = match parse(line, &mut self.record, &mut self.state.clock) {
                Ok(None) => {
                    self.done(end);
                    return Some(Event::Foreign(&self.buffer[start..end]));
                }
                Ok(Some(parsed)) => self.state.take(parsed, &self.record),
                Err(why) => Err(why),
            };
            match step {
                Err(why) => {
                    self.record.truncate(kept);
                    self.done(end);
                    return Some(Event::Damaged { line: &self.buffer[start..end], why });
                }
                Ok(Step::Gap { to }) => {
                    self.record.clear();
                    self.state.partial = None;
                    let from = std::mem::replace(&mut self.state.seq, to);
                    return Some(Event::Gap { from, to });
                }
                Ok(Step::Repeated) => {
                    self.record.truncate(kept);
                    self.done(end);
                    return Some(Event::Repeated(&self.buffer[start..end]));
                }
                Ok(Step::Silent) => self.done(end),
                Ok(Step::Frame(frame)) => {
                    self.done(end);
                    return Some(Event::Frame(*frame));
                }
                Ok(Step::Output { seq, time, stream }) => {
                    self.done(end);
                    return Some(Event::Frame(Frame::Output { seq, time, stream, bytes: &self.record }));
                }
            }
        }
    }

    /// The line that ends at `end` is consumed with its newline.
    fn done(&mut self, end: usize) {
        self.taken = end + 1;
        self.searched = 0;
    }

    /// Finds the next line. Of one over the limit only the beginning, the rest is skipped.
    fn line(&mut self) -> Option<Found> {
        // A record that was given out stays in its buffer until now.
        if self.state.partial.is_none() {
            self.record.clear();
        }
        loop {
            let start = self.taken;
            let rest = &self.buffer[start..];
            let newline =
                rest[self.searched..].iter().position(|byte| *byte == b'\n').map(|at| at + self.searched);
            if self.skipping {
                self.taken += newline.map_or(rest.len(), |at| at + 1);
                self.searched = 0;
                newline?;
                self.skipping = false;
                continue;
            }
            match newline {
                Some(at) if at < LINE_BYTES_MAX => return Some(Found::Line { start, end: start + at }),
                None if rest.len() < LINE_BYTES_MAX => {
                    self.searched = rest.len();
                    return None;
                }
                _ => {
                    self.skipping = true;
                    self.searched = 0;
                    self.taken = start + LINE_BYTES_MAX;
                    return Some(Found::Overlong { start, end: self.taken });
                }
            }
        }
    }
}

enum Found {
    Line { start: usize, end: usize },
    Overlong { start: usize, end: usize },
}

impl State {
    fn take(&mut self, line: Line, record: &[u8]) -> Result<Step, Wrong> {
        match line {
            Line::Begin(begin) => self.begin(begin),
            Line::Piece { seq, time, stream, part, at } => {
                if let Some(step) = self.place(seq)? {
                    return Ok(step);
                }
                let (number, more) = part.unwrap_or((0, false));
                let next = self.partial.map_or(0, |partial| partial.next);
                if number < next {
                    return Ok(Step::Repeated);
                }
                if number > next {
                    return Ok(Step::Gap { to: seq + 1 });
                }
                if self.partial.is_some_and(|partial| (partial.time, partial.stream) != (time, stream)) {
                    return Err("it is no part of the record that its seq names");
                }
                if at == record.len() || record.len() > OUTPUT_BYTES_MAX {
                    return Err("its record is empty or over the limit");
                }
                if more {
                    self.partial = Some(Partial { time, stream, next: next + 1 });
                    return Ok(Step::Silent);
                }
                self.partial = None;
                self.seq += 1;
                Ok(Step::Output { seq, time, stream })
            }
            Line::Dropped { seq, time, stream, bytes } => {
                if let Some(step) = self.place(seq)? {
                    return Ok(step);
                }
                if self.partial.is_some() {
                    return Err("it is no part of the record that its seq names");
                }
                self.seq += 1;
                Ok(Step::frame(Frame::Dropped { seq, time, stream, bytes }))
            }
            Line::Note { time, note } => {
                if self.seen(&note)? {
                    return Ok(Step::Repeated);
                }
                self.open()?;
                Ok(Step::frame(Frame::Note { time, note }))
            }
            Line::OutputFile { index, file } => self.output_file(index, file),
            Line::Seal { seal, outputs } => self.seal(seal, outputs),
        }
    }

    /// Whether a note was there before. Remembers it.
    fn seen(&mut self, note: &Note) -> Result<bool, Wrong> {
        let kind = match note {
            Note::Started => 0,
            Note::Arrival { .. } => 1,
            Note::MainEnded => 2,
            Note::StreamEnd { stream } => 3 + stream.index(),
            Note::OutputRefused { path, .. } => {
                let path = *blake3::hash(path).as_bytes();
                if self.refused.contains(&path) {
                    return Ok(true);
                }
                if self.refused.len() == OUTPUTS_REFUSED_MAX {
                    return Err("there are too many notes of its kind");
                }
                self.refused.push(path);
                return Ok(false);
            }
        };
        Ok(std::mem::replace(&mut self.notes_seen[kind], true))
    }

    fn open(&self) -> Result<(), Wrong> {
        if self.sealed { Err("it follows the seal") } else { Ok(()) }
    }

    /// Where a record's line stands: `None` if it is the next one.
    fn place(&self, seq: u64) -> Result<Option<Step>, Wrong> {
        if seq < self.seq {
            return Ok(Some(Step::Repeated));
        }
        self.open()?;
        match seq {
            u64::MAX => Err("its seq is out of range"),
            _ if seq > self.seq => Ok(Some(Step::Gap { to: seq })),
            _ => Ok(None),
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<Step, Wrong> {
        match &self.begin {
            Some(known) if *known == begin => Ok(Step::Repeated),
            Some(_) => Err("it begins another transcript"),
            None => {
                self.clock = Some(Clock::new(begin.wall_ns));
                self.begin = Some(begin.clone());
                Ok(Step::frame(Frame::Begin(begin)))
            }
        }
    }

    fn output_file(&mut self, index: u64, file: OutputFile) -> Result<Step, Wrong> {
        let next = self.outputs.len() as u64;
        if self.sealed || index < next {
            return Ok(Step::Repeated);
        }
        let bytes = self.outputs_bytes + OUTPUT_FILE_FIXED_BYTES + file.path.len();
        if index > next || index >= OUTPUT_FILES_MAX as u64 || bytes > OUTPUT_LIST_BYTES_MAX {
            return Err("the output file before it is missing, or there are too many");
        }
        self.outputs_bytes = bytes;
        self.outputs.push(file);
        Ok(Step::Silent)
    }

    fn seal(&mut self, mut seal: Box<Seal>, outputs: u64) -> Result<Step, Wrong> {
        self.open()?;
        if seal.records > self.seq {
            return Ok(Step::Gap { to: seal.records });
        }
        if self.partial.is_some() {
            return Ok(Step::Gap { to: self.seq.saturating_add(1) });
        }
        if outputs != self.outputs.len() as u64 {
            return Err("lines of output files are missing before it");
        }
        self.sealed = true;
        seal.outputs = std::mem::take(&mut self.outputs);
        Ok(Step::frame(Frame::Seal(*seal)))
    }
}
