//! Frames to lines.

use super::clock::Clock;
use super::text::{escaped_bytes, put_base64, put_escaped, put_hex, put_number, put_uuid};
use crate::limits::{
    BASE64_BYTES_MAX, LINE_BYTES_MAX, LINE_MAC_ROOM, LINE_TEXT_BYTES_MAX, TEXT_BYTES_MAX,
    TEXT_PIECE_BYTES_MIN,
};
use crate::payload::{capped, capped_bytes};
use crate::record::{Begin, Frame, Note, Stream};
use crate::seal::{Cause, Exit, OutputFile, Seal, StreamSeal, Usage};

/// What stands behind a piece of output at most: `","part":65536,"more":false}` and the newline.
const PIECE_END_BYTES_MAX: usize = 32;

/// Writes frames as lines. Learns the wall clock from the begin, so the frames of one transcript go through one encoder.
#[derive(Clone, Debug)]
pub struct Encoder {
    clock: Clock,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    pub fn new() -> Self {
        Self::resume(0)
    }

    /// An encoder for the rest of a transcript whose begin is written.
    pub fn resume(wall_ns: i64) -> Self {
        Encoder { clock: Clock::new(wall_ns) }
    }

    /// Appends the line or lines of one frame, each under [`LINE_BYTES_MAX`] with its newline.
    ///
    /// Cuts texts and the list of output files as [`crate::binary::encode`] does.
    pub fn encode(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        match frame {
            Frame::Begin(begin) => {
                self.clock = Clock::new(begin.wall_ns);
                self.begin(begin, out);
            }
            Frame::Output { seq, time, stream, bytes } => self.output(*seq, *time, *stream, bytes, out),
            Frame::Dropped { seq, time, stream, bytes } => {
                self.record(*seq, *time, *stream, out);
                out.extend_from_slice(b",\"dropped\":");
                put_number(bytes, out);
                out.extend_from_slice(b"}\n");
            }
            Frame::Note { time, note } => self.note(*time, note, out),
            Frame::Seal(seal) => {
                let outputs = seal.outputs_that_fit();
                for (index, file) in outputs.iter().enumerate() {
                    output_file(index as u64, file, out);
                }
                self.seal(seal, outputs.len() as u64, out);
            }
        }
    }

    fn begin(&mut self, begin: &Begin, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"{\"lastword\":");
        put_number(begin.version, out);
        out.extend_from_slice(b",\"id\":\"");
        put_uuid(&begin.id, out);
        out.extend_from_slice(b"\",\"boot_id\":\"");
        put_uuid(&begin.boot_id, out);
        out.extend_from_slice(b"\",\"wall_ns\":");
        put_number(begin.wall_ns, out);
        self.time(0, out);
        out.extend_from_slice(b",\"ordering\":\"");
        out.extend_from_slice(begin.ordering.name().as_bytes());
        out.extend_from_slice(b"\",\"tty\":");
        put_bool(begin.tty, out);
        close(start, out);
    }

    fn output(&mut self, seq: u64, time: u64, stream: Stream, bytes: &[u8], out: &mut Vec<u8>) {
        let (mut rest, mut part) = (bytes, 0u32);
        while !rest.is_empty() {
            let start = out.len();
            self.record(seq, time, stream, out);
            let taken = match piece(rest, part == 0) {
                Piece::Text(text) => {
                    out.extend_from_slice(b",\"log\":\"");
                    let used = out.len() - start + PIECE_END_BYTES_MAX + LINE_MAC_ROOM;
                    put_escaped(text, LINE_BYTES_MAX - used, out)
                }
                Piece::Base64(piece) => {
                    out.extend_from_slice(b",\"log_b64\":\"");
                    put_base64(piece, out);
                    piece.len()
                }
            };
            out.push(b'"');
            rest = &rest[taken..];
            if part > 0 || !rest.is_empty() {
                out.extend_from_slice(b",\"part\":");
                put_number(part, out);
                out.extend_from_slice(b",\"more\":");
                put_bool(!rest.is_empty(), out);
            }
            out.extend_from_slice(b"}\n");
            part += 1;
        }
    }

    /// The fields that every record's line begins with.
    fn record(&mut self, seq: u64, time: u64, stream: Stream, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"seq\":");
        put_number(seq, out);
        self.times(time, out);
        put_stream(stream, out);
    }

    fn note(&mut self, time: u64, note: &Note, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"{\"note\":\"");
        out.extend_from_slice(note.name().as_bytes());
        out.push(b'"');
        self.times(time, out);
        match note {
            Note::Started | Note::MainEnded => {}
            Note::Arrival { from_seq, why } => {
                out.extend_from_slice(b",\"from_seq\":");
                put_number(from_seq, out);
                put_text("why", capped(why).as_bytes(), out);
            }
            Note::StreamEnd { stream } => put_stream(*stream, out),
            Note::OutputRefused { path, why } => {
                put_text("path", capped_bytes(path), out);
                put_text("why", capped(why).as_bytes(), out);
            }
        }
        close(start, out);
    }

    /// The seal's own line, which says how many lines of output files stand before it.
    pub(super) fn seal(&mut self, seal: &Seal, outputs: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"{\"seal\":1");
        self.times(seal.time, out);
        out.extend_from_slice(b",\"records\":");
        put_number(seal.records, out);
        for stream in Stream::ALL {
            put_stream_seal(stream, &seal.streams[stream.index()], out);
        }
        put_digest("order_blake3", &seal.order_blake3, out);
        out.extend_from_slice(b",\"ordering\":\"");
        out.extend_from_slice(seal.ordering.name().as_bytes());
        out.push(b'"');
        put_option("exact_until_seq", seal.exact_until_seq, out);
        put_cause(&seal.cause, out);
        put_exit(seal.exit, out);
        put_option("started", seal.started, out);
        put_option("ended", seal.ended, out);
        put_usage(&seal.usage, out);
        out.extend_from_slice(b",\"outputs\":");
        put_number(outputs, out);
        close(start, out);
    }

    fn time(&mut self, time: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(self.clock.format(time));
        out.push(b'"');
    }

    fn times(&mut self, time: u64, out: &mut Vec<u8>) {
        self.time(time, out);
        out.extend_from_slice(b",\"t\":");
        put_number(time, out);
    }
}

/// What one line takes of a record.
enum Piece<'a> {
    Text(&'a str),
    Base64(&'a [u8]),
}

/// Chooses the next piece: text where it is UTF-8, base64 elsewhere, and never one line per few bytes.
fn piece(rest: &[u8], first: bool) -> Piece<'_> {
    let continues = |byte: &u8| byte & 0xC0 == 0x80;
    if first {
        // The rest of a character that the record before was cut in.
        let lead = rest.iter().take(4).take_while(|byte| continues(byte)).count();
        if (1..=3).contains(&lead) && lead < rest.len() {
            return Piece::Base64(&rest[..lead]);
        }
    }
    let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
    let error = match std::str::from_utf8(window) {
        Ok(text) => return Piece::Text(text),
        Err(error) => error,
    };
    let (valid, other) = window.split_at(error.valid_up_to());
    let cut_at_end = error.error_len().is_none() && !valid.is_empty();
    if let Ok(text) = std::str::from_utf8(valid)
        && (cut_at_end || valid.len() >= TEXT_PIECE_BYTES_MIN)
    {
        return Piece::Text(text);
    }
    if valid.is_empty() && error.error_len().is_none() {
        return Piece::Base64(other);
    }
    let mut end = rest.len().min(BASE64_BYTES_MAX);
    if end < rest.len() {
        // Not in the middle of a character, should text begin again there.
        end -= rest[end - 3..=end].iter().rev().take_while(|byte| continues(byte)).count().min(3);
    }
    Piece::Base64(&rest[..end])
}

/// The line of one output file.
pub(super) fn output_file(index: u64, file: &OutputFile, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"{\"output\":");
    put_number(index, out);
    put_text("path", &file.path, out);
    out.extend_from_slice(b",\"bytes\":");
    put_number(file.bytes, out);
    put_digest("blake3", &file.blake3, out);
    close(start, out);
}

/// Ends a line that the seal's digests don't cover.
fn close(start: usize, out: &mut Vec<u8>) {
    let sum = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(b",\"crc\":\"");
    put_hex(&sum.to_be_bytes(), out);
    out.extend_from_slice(b"\"}\n");
}

fn put_bool(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn put_key(key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_stream(stream: Stream, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b'"');
}

fn put_option(key: &str, value: Option<u64>, out: &mut Vec<u8>) {
    put_key(key, out);
    match value {
        Some(value) => put_number(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn put_digest(key: &str, digest: &[u8; 32], out: &mut Vec<u8>) {
    put_key(key, out);
    out.push(b'"');
    put_hex(digest, out);
    out.push(b'"');
}

/// A text, or as `KEY_b64` bytes that are none or would take too much of the line.
fn put_text(key: &str, bytes: &[u8], out: &mut Vec<u8>) {
    debug_assert!(bytes.len() <= TEXT_BYTES_MAX, "a text of {} bytes", bytes.len());
    match std::str::from_utf8(bytes) {
        Ok(text) if escaped_bytes(text) <= LINE_TEXT_BYTES_MAX => {
            put_key(key, out);
            out.push(b'"');
            put_escaped(text, LINE_TEXT_BYTES_MAX, out);
        }
        _ => {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"_b64\":\"");
            put_base64(bytes, out);
        }
    }
    out.push(b'"');
}

fn put_stream_seal(stream: Stream, of: &StreamSeal, out: &mut Vec<u8>) {
    put_key(stream.name(), out);
    out.extend_from_slice(b"{\"bytes\":");
    put_number(of.bytes, out);
    out.extend_from_slice(b",\"dropped\":");
    put_number(of.dropped, out);
    put_digest("blake3", &of.blake3, out);
    out.extend_from_slice(b",\"end\":\"");
    out.extend_from_slice(of.end.name().as_bytes());
    out.extend_from_slice(b"\"}");
}

fn put_cause(cause: &Cause, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"cause\":\"");
    out.extend_from_slice(cause.name().as_bytes());
    out.push(b'"');
    match cause {
        Cause::StartFailure { step, errno, message } => {
            put_key("errno", out);
            put_number(errno, out);
            put_text("step", capped(step).as_bytes(), out);
            put_text("message", capped(message).as_bytes(), out);
        }
        Cause::Internal { message } | Cause::ImageUnavailable { message } => {
            put_text("message", capped(message).as_bytes(), out)
        }
        _ => {}
    }
}

fn put_exit(exit: Exit, out: &mut Vec<u8>) {
    put_key("exit", out);
    let (key, value) = match exit {
        Exit::None => return out.extend_from_slice(b"null"),
        Exit::Code(code) => ("code", code),
        Exit::Signal(signal) => ("signal", signal),
    };
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    put_number(value, out);
    out.push(b'}');
}

fn put_usage(usage: &Usage, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"usage\":{\"wall_ns\":");
    put_number(usage.wall_ns, out);
    put_option("cpu_user_ns", usage.cpu_user_ns, out);
    put_option("cpu_system_ns", usage.cpu_system_ns, out);
    put_option("memory_peak_bytes", usage.memory_peak_bytes, out);
    put_option("processes_peak", usage.processes_peak, out);
    out.extend_from_slice(b",\"processes_sampled\":");
    put_bool(usage.processes_sampled, out);
    put_option("oom_kills", usage.oom_kills, out);
    out.push(b'}');
}
