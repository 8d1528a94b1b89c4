//! Checks a whole transcript against its seal, as it comes.

use crate::binary::{DecodeError, Decoder};
use crate::limits::{OUTPUTS_REFUSED_BYTES_MAX, OUTPUTS_REFUSED_MAX};
use crate::record::{Begin, Frame, Note, Ordering, Stream};
use crate::seal::Seal;
use crate::tally::Tally;

/// Takes a transcript in the binary encoding in any pieces, and says at the end what it is worth.
#[derive(Default)]
pub struct Verifier {
    decoder: Decoder,
    facts: Facts,
    /// Bytes pushed in all.
    pushed: u64,
    error: Option<DecodeError>,
}

/// How the bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole frame, or there are none.
    Whole,
    /// With the first part of a frame: the writer, or the machine, stopped in the middle.
    Torn,
    /// With bytes that are no frame, or that follow the seal.
    Damaged,
}

/// One stream as it was read, whatever the seal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCount {
    pub bytes: u64,
    pub dropped: u64,
    /// BLAKE3 over the stream's bytes.
    pub blake3: [u8; 32],
}

/// One note of an output that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOutput {
    pub path: Vec<u8>,
    pub why: String,
}

/// What a transcript is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub begin: Option<Begin>,
    pub seal: Option<Seal>,
    /// `None` if and only if the transcript is complete; else a sentence for the user, without a full stop.
    pub why_incomplete: Option<String>,
    /// Records read.
    pub records: u64,
    /// In order of [`Stream::index`].
    pub streams: [StreamCount; 2],
    /// When the program's exec succeeded, by the note: it holds without a seal, too.
    pub started: Option<u64>,
    /// When the main process ended, by the note.
    pub main_ended: Option<u64>,
    /// From this seq on the order is that of arrival, by the note.
    pub arrival_from: Option<u64>,
    /// What matched a declared output and was not kept, by the notes: the first of them, as far as the limits allow.
    pub outputs_refused: Vec<RefusedOutput>,
    /// Notes of that kind beyond those.
    pub outputs_refused_more: u64,
    /// Time of the last frame.
    pub last_time: u64,
    /// Bytes of whole, good frames.
    pub valid_bytes: u64,
    /// Bytes after those.
    pub trailing_bytes: u64,
    pub tail: Tail,
    /// What the decoder refused, when `tail` is damaged.
    pub damage: Option<DecodeError>,
}

impl Report {
    pub fn complete(&self) -> bool {
        self.why_incomplete.is_none()
    }
}

impl Verifier {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on. After damage it only counts bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pushed = self.pushed.saturating_add(bytes.len() as u64);
        if self.error.is_some() {
            return;
        }
        self.decoder.push(bytes);
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => self.facts.take(frame),
                Ok(None) => return,
                Err(error) => {
                    self.error = Some(error);
                    return;
                }
            }
        }
    }

    /// The verdict over all that was pushed.
    pub fn finish(self) -> Report {
        let valid_bytes = self.decoder.offset();
        let trailing_bytes = self.pushed - valid_bytes;
        let tail = match (&self.error, trailing_bytes) {
            (Some(_), _) => Tail::Damaged,
            (None, 0) => Tail::Whole,
            (None, _) => Tail::Torn,
        };
        let why_incomplete = match &self.error {
            Some(error) => Some(error.to_string()),
            None => self.facts.why_incomplete(valid_bytes, trailing_bytes),
        };
        let facts = self.facts;
        let streams = Stream::ALL.map(|stream| {
            let (bytes, dropped, blake3) = facts.tally.stream(stream);
            StreamCount { bytes, dropped, blake3 }
        });
        Report {
            begin: facts.begin,
            seal: facts.seal,
            why_incomplete,
            records: facts.tally.records(),
            streams,
            started: facts.started,
            main_ended: facts.main_ended,
            arrival_from: facts.arrival_from,
            outputs_refused: facts.refused,
            outputs_refused_more: facts.refused_more,
            last_time: facts.last_time,
            valid_bytes,
            trailing_bytes,
            tail,
            damage: self.error,
        }
    }
}

/// What the frames said so far.
#[derive(Default)]
struct Facts {
    begin: Option<Begin>,
    seal: Option<Seal>,
    tally: Tally,
    started: Option<u64>,
    main_ended: Option<u64>,
    arrival_from: Option<u64>,
    refused: Vec<RefusedOutput>,
    refused_bytes: usize,
    refused_more: u64,
    ended: [bool; 2],
    last_time: u64,
    /// The first thing that two frames disagree on.
    contradiction: Option<String>,
}

impl Facts {
    fn take(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Begin(begin) => self.begin = Some(begin),
            Frame::Output { seq, time, stream, bytes } => {
                self.record(seq, time, stream);
                self.tally.output(seq, time, stream, bytes);
            }
            Frame::Dropped { seq, time, stream, bytes } => {
                self.record(seq, time, stream);
                self.tally.dropped(seq, time, stream, bytes);
            }
            Frame::Note { time, note } => {
                self.last_time = time;
                self.note(time, note);
            }
            Frame::Seal(seal) => {
                self.last_time = seal.time;
                self.seal = Some(seal);
            }
        }
    }

    fn record(&mut self, seq: u64, time: u64, stream: Stream) {
        self.last_time = time;
        if self.ended[stream.index()] {
            self.contradict(|| format!("record {seq} is of {}, which had already ended", stream.name()));
        }
    }

    fn note(&mut self, time: u64, note: Note) {
        match note {
            Note::Started if self.started.is_none() => self.started = Some(time),
            Note::MainEnded if self.main_ended.is_none() => self.main_ended = Some(time),
            Note::Arrival { from_seq, .. } if self.arrival_from.is_none() => {
                self.arrival_from = Some(from_seq)
            }
            Note::StreamEnd { stream } if !self.ended[stream.index()] => self.ended[stream.index()] = true,
            Note::OutputRefused { path, why } if self.refused.iter().all(|known| known.path != path) => {
                self.refused(path, why);
            }
            again => self.contradict(|| format!("the transcript has the note {} twice", again.name())),
        }
    }

    /// Keeps a note of a refused output, or counts it when it is one too many.
    fn refused(&mut self, path: Vec<u8>, why: String) {
        let bytes = self.refused_bytes + path.len() + why.len();
        if self.refused.len() == OUTPUTS_REFUSED_MAX || bytes > OUTPUTS_REFUSED_BYTES_MAX {
            self.refused_more += 1;
            return;
        }
        self.refused_bytes = bytes;
        self.refused.push(RefusedOutput { path, why });
    }

    fn contradict(&mut self, what: impl FnOnce() -> String) {
        self.contradiction.get_or_insert_with(what);
    }

    fn why_incomplete(&self, valid_bytes: u64, trailing_bytes: u64) -> Option<String> {
        if self.begin.is_none() {
            return Some(match trailing_bytes {
                0 => "nothing was recorded".to_owned(),
                torn => format!(
                    "nothing was recorded: there are {torn} bytes of a begin block that was not finished"
                ),
            });
        }
        let Some(seal) = &self.seal else {
            return Some(match trailing_bytes {
                0 => "the transcript has no seal: its writer ended early".to_owned(),
                torn => format!(
                    "the transcript has no seal: it breaks off inside a frame, {torn} bytes after the last whole one at byte {valid_bytes}"
                ),
            });
        };
        // What the seal admits comes last: a transcript that doesn't add up must not pass for one that merely dropped.
        self.contradiction
            .clone()
            .or_else(|| self.against_counts(seal))
            .or_else(|| self.against_ordering(seal))
            .or_else(|| seal.why_incomplete())
    }

    fn against_counts(&self, seal: &Seal) -> Option<String> {
        let records = self.tally.records();
        if records != seal.records {
            return Some(format!("the seal counts {} records, and there are {records}", seal.records));
        }
        for stream in Stream::ALL {
            let (bytes, dropped, blake3) = self.tally.stream(stream);
            let (sealed, name) = (&seal.streams[stream.index()], stream.name());
            if bytes != sealed.bytes {
                return Some(format!(
                    "the seal counts {} bytes of {name}, and there are {bytes}",
                    sealed.bytes
                ));
            }
            if dropped != sealed.dropped {
                let counted = sealed.dropped;
                return Some(format!(
                    "the seal counts {counted} dropped bytes of {name}, and the records {dropped}"
                ));
            }
            if blake3 != sealed.blake3 {
                return Some(format!(
                    "the bytes of {name} are not those that were sealed: their digest is another"
                ));
            }
        }
        if self.tally.order_blake3() != seal.order_blake3 {
            return Some("the order, times or cuts of the records are not those that were sealed".to_owned());
        }
        None
    }

    /// The label must be true: nothing may say `exact` where another frame knows better.
    fn against_ordering(&self, seal: &Seal) -> Option<String> {
        let begun = self.begin.as_ref().map_or(Ordering::Arrival, |begin| begin.ordering);
        match (seal.ordering, seal.exact_until_seq) {
            (Ordering::Exact, Some(_)) => {
                Some("the seal says exact order, and that it ends at some record".to_owned())
            }
            (Ordering::Exact, None) if begun == Ordering::Arrival => {
                Some("the seal says exact order, and the begin of the transcript only arrival".to_owned())
            }
            (Ordering::Exact, None) => {
                let from = self.arrival_from?;
                Some(format!("the seal says exact order, and a note says arrival from record {from} on"))
            }
            (Ordering::Arrival, Some(until)) => {
                let known = if begun == Ordering::Arrival { Some(0) } else { self.arrival_from };
                let from = known.filter(|from| *from < until)?;
                Some(format!("the seal says exact order up to record {until}, and a note only up to {from}"))
            }
            (Ordering::Arrival, None) => None,
        }
    }
}
