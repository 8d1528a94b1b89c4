//! Payloads of the Note and Seal frames in the binary encoding: fixed fields, then texts with their length.
//!
//! One value has one encoding. Whatever else a payload holds, trailing bytes too, is refused.

use crate::limits::{OUTPUT_FILES_MAX, OUTPUT_LIST_BYTES_MAX, TEXT_BYTES_MAX};
use crate::record::{Note, Ordering, Stream};
use crate::seal::{Cause, Exit, OutputFile, Seal, StreamEnd, StreamSeal, Usage};

/// What is wrong with a payload, as the end of a sentence.
pub(crate) type Wrong = &'static str;

/// Bytes that every entry in the list of output files takes beside its path.
pub(crate) const OUTPUT_FILE_FIXED_BYTES: usize = 2 + 8 + 32;

/// The text that fits into a frame: cut at [`TEXT_BYTES_MAX`], on a character boundary.
pub(crate) fn capped(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// The part of a path that fits into a frame.
pub(crate) fn capped_bytes(path: &[u8]) -> &[u8] {
    &path[..path.len().min(TEXT_BYTES_MAX)]
}

pub(crate) fn put_note(note: &Note, out: &mut Vec<u8>) {
    match note {
        Note::Started => out.push(1),
        Note::Arrival { from_seq, why } => {
            out.push(2);
            out.extend_from_slice(&from_seq.to_le_bytes());
            put_text(capped(why).as_bytes(), out);
        }
        Note::MainEnded => out.push(3),
        Note::StreamEnd { stream } => out.extend_from_slice(&[4, *stream as u8]),
        Note::OutputRefused { path, why } => {
            out.push(5);
            put_text(capped_bytes(path), out);
            put_text(capped(why).as_bytes(), out);
        }
    }
}

pub(crate) fn get_note(payload: &[u8]) -> Result<Note, Wrong> {
    let mut from = Fields { rest: payload };
    let note = match from.u8()? {
        1 => Note::Started,
        2 => Note::Arrival { from_seq: from.u64()?, why: from.text()? },
        3 => Note::MainEnded,
        4 => Note::StreamEnd { stream: Stream::from_wire(from.u8()?).ok_or("it names an unknown stream")? },
        5 => Note::OutputRefused { path: from.bytes()?.to_vec(), why: from.text()? },
        _ => return Err("the note is of an unknown kind"),
    };
    from.end()?;
    Ok(note)
}

/// Everything but `time`, which the frame's header has.
pub(crate) fn put_seal(seal: &Seal, out: &mut Vec<u8>) {
    out.extend_from_slice(&seal.records.to_le_bytes());
    for stream in &seal.streams {
        out.extend_from_slice(&stream.bytes.to_le_bytes());
        out.extend_from_slice(&stream.dropped.to_le_bytes());
        out.extend_from_slice(&stream.blake3);
        out.push(stream.end as u8);
    }
    out.extend_from_slice(&seal.order_blake3);
    out.push(seal.ordering as u8);
    put_option(seal.exact_until_seq, out);
    put_exit(seal.exit, out);
    put_option(seal.started, out);
    put_option(seal.ended, out);
    put_usage(&seal.usage, out);
    put_cause(&seal.cause, out);
    let outputs = seal.outputs_that_fit();
    out.extend_from_slice(&(outputs.len() as u32).to_le_bytes());
    for file in outputs {
        out.extend_from_slice(&file.bytes.to_le_bytes());
        out.extend_from_slice(&file.blake3);
        put_text(&file.path, out);
    }
}

pub(crate) fn get_seal(time: u64, payload: &[u8]) -> Result<Seal, Wrong> {
    let mut from = Fields { rest: payload };
    let seal = Seal {
        time,
        records: from.u64()?,
        streams: [from.stream_seal()?, from.stream_seal()?],
        order_blake3: from.array()?,
        ordering: Ordering::from_wire(from.u8()?).ok_or("its ordering is unknown")?,
        exact_until_seq: from.option()?,
        exit: from.exit()?,
        started: from.option()?,
        ended: from.option()?,
        usage: from.usage()?,
        cause: from.cause()?,
        outputs: from.outputs()?,
    };
    from.end()?;
    Ok(seal)
}

fn put_text(text: &[u8], out: &mut Vec<u8>) {
    // Callers have cut it to TEXT_BYTES_MAX, which fits.
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}

fn put_option(value: Option<u64>, out: &mut Vec<u8>) {
    out.push(value.is_some() as u8);
    out.extend_from_slice(&value.unwrap_or(0).to_le_bytes());
}

fn put_exit(exit: Exit, out: &mut Vec<u8>) {
    out.extend_from_slice(&match exit {
        Exit::None => [0, 0],
        Exit::Code(code) => [1, code],
        Exit::Signal(signal) => [2, signal],
    });
}

fn put_usage(usage: &Usage, out: &mut Vec<u8>) {
    out.extend_from_slice(&usage.wall_ns.to_le_bytes());
    put_option(usage.cpu_user_ns, out);
    put_option(usage.cpu_system_ns, out);
    put_option(usage.memory_peak_bytes, out);
    put_option(usage.processes_peak, out);
    out.push(usage.processes_sampled as u8);
    put_option(usage.oom_kills, out);
}

fn put_cause(cause: &Cause, out: &mut Vec<u8>) {
    out.push(match cause {
        Cause::Ended => 1,
        Cause::WallTime => 2,
        Cause::CpuTime => 3,
        Cause::OutputLimit => 4,
        Cause::Cancelled => 5,
        Cause::StorageFull => 6,
        Cause::StartFailure { .. } => 7,
        Cause::Internal { .. } => 8,
        Cause::DiskLimit => 9,
        Cause::CompileFailed => 10,
        Cause::ImageUnavailable { .. } => 11,
    });
    match cause {
        Cause::StartFailure { step, errno, message } => {
            out.extend_from_slice(&errno.to_le_bytes());
            put_text(capped(step).as_bytes(), out);
            put_text(capped(message).as_bytes(), out);
        }
        Cause::Internal { message } | Cause::ImageUnavailable { message } => {
            put_text(capped(message).as_bytes(), out)
        }
        _ => {}
    }
}

/// Takes fields off the front of a payload.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or("its payload ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or("its payload ends too early")?;
        self.rest = rest;
        Ok(*taken)
    }

    fn end(&self) -> Result<(), Wrong> {
        if self.rest.is_empty() { Ok(()) } else { Err("its payload has bytes too many") }
    }

    fn u8(&mut self) -> Result<u8, Wrong> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Wrong> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Wrong> {
        self.array().map(u64::from_le_bytes)
    }

    fn bool(&mut self) -> Result<bool, Wrong> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a yes or no in it is neither"),
        }
    }

    fn option(&mut self) -> Result<Option<u64>, Wrong> {
        match (self.bool()?, self.u64()?) {
            (true, value) => Ok(Some(value)),
            (false, 0) => Ok(None),
            (false, _) => Err("an absent value in it is not zero"),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], Wrong> {
        let length = usize::from(self.u16()?);
        if length > TEXT_BYTES_MAX {
            return Err("a text in it is over the limit");
        }
        self.take(length)
    }

    fn text(&mut self) -> Result<String, Wrong> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| "a text in it is not UTF-8")
    }

    fn stream_seal(&mut self) -> Result<StreamSeal, Wrong> {
        Ok(StreamSeal {
            bytes: self.u64()?,
            dropped: self.u64()?,
            blake3: self.array()?,
            end: StreamEnd::from_wire(self.u8()?).ok_or("a stream in it has an unknown end")?,
        })
    }

    fn exit(&mut self) -> Result<Exit, Wrong> {
        match self.array()? {
            [0, 0] => Ok(Exit::None),
            [1, code] => Ok(Exit::Code(code)),
            [2, signal] => Ok(Exit::Signal(signal)),
            _ => Err("its exit is unknown"),
        }
    }

    fn usage(&mut self) -> Result<Usage, Wrong> {
        Ok(Usage {
            wall_ns: self.u64()?,
            cpu_user_ns: self.option()?,
            cpu_system_ns: self.option()?,
            memory_peak_bytes: self.option()?,
            processes_peak: self.option()?,
            processes_sampled: self.bool()?,
            oom_kills: self.option()?,
        })
    }

    fn cause(&mut self) -> Result<Cause, Wrong> {
        Ok(match self.u8()? {
            1 => Cause::Ended,
            2 => Cause::WallTime,
            3 => Cause::CpuTime,
            4 => Cause::OutputLimit,
            5 => Cause::Cancelled,
            6 => Cause::StorageFull,
            7 => {
                let errno = self.array().map(i32::from_le_bytes)?;
                Cause::StartFailure { errno, step: self.text()?, message: self.text()? }
            }
            8 => Cause::Internal { message: self.text()? },
            9 => Cause::DiskLimit,
            10 => Cause::CompileFailed,
            11 => Cause::ImageUnavailable { message: self.text()? },
            _ => return Err("its cause is unknown"),
        })
    }

    fn outputs(&mut self) -> Result<Vec<OutputFile>, Wrong> {
        let count = self.u32()? as usize;
        if count > OUTPUT_FILES_MAX || self.rest.len() > OUTPUT_LIST_BYTES_MAX {
            return Err("it lists more output files than the limit");
        }
        // Every entry takes its fixed bytes at least, so the payload itself bounds what is set aside here.
        let mut outputs = Vec::with_capacity(count.min(self.rest.len() / OUTPUT_FILE_FIXED_BYTES));
        for _ in 0..count {
            let (bytes, blake3) = (self.u64()?, self.array()?);
            outputs.push(OutputFile { bytes, blake3, path: self.bytes()?.to_vec() });
        }
        Ok(outputs)
    }
}
