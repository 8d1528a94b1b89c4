//! One line by itself, before its place among the others is looked at.

use super::clock::{Clock, TIME_BYTES, anchor};
use super::encode::{Encoder, output_file};
use super::scan::{Scan, UNEXPECTED, Wrong};
use crate::record::{Begin, Frame, Note, Stream};
use crate::seal::{OutputFile, Seal};

/// One line, understood by itself. A piece of output is in the buffer that was given to [`parse`].
pub(super) enum Line {
    Begin(Begin),
    /// The piece is what stands in the record buffer from `at` on; `part` is its number and whether more follow.
    Piece {
        seq: u64,
        time: u64,
        stream: Stream,
        part: Option<(u64, bool)>,
        at: usize,
    },
    Dropped {
        seq: u64,
        time: u64,
        stream: Stream,
        bytes: u64,
    },
    Note {
        time: u64,
        note: Note,
    },
    OutputFile {
        index: u64,
        file: OutputFile,
    },
    Seal {
        seal: Box<Seal>,
        outputs: u64,
    },
}

/// Reads one line: `None` if it doesn't begin like one of ours. A piece of output goes behind `record`.
pub(super) fn parse(
    line: &[u8],
    record: &mut Vec<u8>,
    clock: &mut Option<Clock>,
) -> Result<Option<Line>, Wrong> {
    let mut scan = Scan::new(line);
    if scan.try_word("{\"seq\":") {
        return parse_record(scan, record, clock).map(Some);
    }
    // A line that turns out wrong must not set the clock for those after it.
    let mut own = clock.clone();
    let parsed = if scan.try_word("{\"note\":\"") {
        parse_note(scan, &mut own)?
    } else if scan.try_word("{\"lastword\":") {
        parse_begin(scan)?
    } else if scan.try_word("{\"output\":") {
        parse_output_file(scan)?
    } else if scan.try_word("{\"seal\":1") {
        parse_seal(scan, &mut own)?
    } else {
        return Ok(None);
    };
    // Their checksum, their time, and that there is one spelling: all of it shows when the line is written again.
    let mut again = Vec::with_capacity(line.len() + 1);
    let mut encoder = Encoder::resume(own.as_ref().map_or(0, |clock| clock.wall_ns));
    match &parsed {
        Line::Begin(begin) => encoder.encode(&Frame::Begin(begin.clone()), &mut again),
        Line::Note { time, note } => {
            encoder.encode(&Frame::Note { time: *time, note: note.clone() }, &mut again)
        }
        Line::OutputFile { index, file } => output_file(*index, file, &mut again),
        Line::Seal { seal, outputs } => encoder.seal(seal, *outputs, &mut again),
        Line::Piece { .. } | Line::Dropped { .. } => {}
    }
    if again.strip_suffix(b"\n") != Some(line) {
        return Err("its checksum, its time or its spelling is wrong");
    }
    *clock = own;
    Ok(Some(parsed))
}

/// The wall time of a line must be its `t` after the anchor. Without a begin, the first line says where that was.
fn check_time(text: &[u8; TIME_BYTES], time: u64, clock: &mut Option<Clock>) -> Result<(), Wrong> {
    const WRONG: Wrong = "its two times don't agree";
    match clock {
        Some(clock) => {
            if clock.format(time) == text {
                Ok(())
            } else {
                Err(WRONG)
            }
        }
        None => {
            *clock = Some(Clock::new(anchor(text, time).ok_or(WRONG)?));
            Ok(())
        }
    }
}

fn parse_begin(mut scan: Scan<'_>) -> Result<Line, Wrong> {
    let version = u16::try_from(scan.number()?).unwrap_or(u16::MAX);
    if version != Begin::VERSION {
        return Err("it begins a transcript in another version of the format");
    }
    scan.word(",\"id\":\"")?;
    let id = scan.uuid()?;
    scan.word("\",\"boot_id\":\"")?;
    let boot_id = scan.uuid()?;
    scan.word("\",\"wall_ns\":")?;
    let wall_ns = scan.signed()?;
    scan.time_only()?;
    scan.word(",\"ordering\":\"")?;
    let ordering = scan.ordering()?;
    scan.word("\",\"tty\":")?;
    let tty = scan.bool()?;
    scan.crc()?;
    Ok(Line::Begin(Begin { version, id, boot_id, wall_ns, ordering, tty }))
}

fn parse_record(mut scan: Scan<'_>, record: &mut Vec<u8>, clock: &mut Option<Clock>) -> Result<Line, Wrong> {
    let seq = scan.number()?;
    let (text, time) = scan.times()?;
    scan.word(",\"stream\":\"")?;
    let stream = scan.stream()?;
    scan.word("\",\"")?;
    let at = record.len();
    let line = if scan.try_word("dropped\":") {
        let bytes = scan.number()?;
        if bytes == 0 {
            return Err("it drops no bytes");
        }
        Line::Dropped { seq, time, stream, bytes }
    } else {
        if scan.try_word("log\":\"") {
            scan.string(record)?;
        } else {
            scan.word("log_b64\":\"")?;
            scan.base64(record)?;
        }
        let mut part = None;
        if scan.try_word(",\"part\":") {
            let number = scan.number()?;
            scan.word(",\"more\":")?;
            let more = scan.bool()?;
            if number == 0 && !more {
                return Err("a record of one part has no parts");
            }
            part = Some((number, more));
        }
        Line::Piece { seq, time, stream, part, at }
    };
    scan.word("}")?;
    scan.end()?;
    check_time(text, time, clock)?;
    Ok(line)
}

fn parse_note(mut scan: Scan<'_>, clock: &mut Option<Clock>) -> Result<Line, Wrong> {
    const KINDS: [&str; 5] = ["started\"", "arrival\"", "main_ended\"", "stream_end\"", "output_refused\""];
    let kind = KINDS.iter().position(|kind| scan.try_word(kind)).ok_or(UNEXPECTED)?;
    let (text, time) = scan.times()?;
    let note = match kind {
        0 => Note::Started,
        1 => {
            scan.word(",\"from_seq\":")?;
            Note::Arrival { from_seq: scan.number()?, why: scan.why()? }
        }
        2 => Note::MainEnded,
        3 => {
            scan.word(",\"stream\":\"")?;
            let stream = scan.stream()?;
            scan.word("\"")?;
            Note::StreamEnd { stream }
        }
        _ => Note::OutputRefused { path: scan.bytes("path")?, why: scan.why()? },
    };
    scan.crc()?;
    check_time(text, time, clock)?;
    Ok(Line::Note { time, note })
}

fn parse_output_file(mut scan: Scan<'_>) -> Result<Line, Wrong> {
    let index = scan.number()?;
    let path = scan.bytes("path")?;
    scan.word(",\"bytes\":")?;
    let bytes = scan.number()?;
    scan.word(",\"blake3\":\"")?;
    let blake3 = scan.digest()?;
    scan.crc()?;
    Ok(Line::OutputFile { index, file: OutputFile { path, bytes, blake3 } })
}

fn parse_seal(mut scan: Scan<'_>, clock: &mut Option<Clock>) -> Result<Line, Wrong> {
    let (text, time) = scan.times()?;
    scan.word(",\"records\":")?;
    let records = scan.number()?;
    let streams = [scan.stream_seal(Stream::Stdout)?, scan.stream_seal(Stream::Stderr)?];
    scan.word(",\"order_blake3\":\"")?;
    let order_blake3 = scan.digest()?;
    scan.word(",\"ordering\":\"")?;
    let ordering = scan.ordering()?;
    scan.word("\",\"exact_until_seq\":")?;
    let exact_until_seq = scan.option()?;
    let (cause, exit) = (scan.cause()?, scan.exit()?);
    scan.word(",\"started\":")?;
    let started = scan.option()?;
    scan.word(",\"ended\":")?;
    let ended = scan.option()?;
    let usage = scan.usage()?;
    scan.word(",\"outputs\":")?;
    let outputs = scan.number()?;
    scan.crc()?;
    check_time(text, time, clock)?;
    let seal = Seal {
        time,
        records,
        streams,
        order_blake3,
        ordering,
        exact_until_seq,
        cause,
        exit,
        started,
        ended,
        usage,
        outputs: Vec::new(),
    };
    Ok(Line::Seal { seal: Box::new(seal), outputs })
}
