//! Reading one line, strictly in the order in which it was written.

use super::clock::TIME_BYTES;
use super::text::{base64_bits, plain};
use crate::limits::TEXT_BYTES_MAX;
use crate::record::{Ordering, Stream};
use crate::seal::{Cause, Exit, StreamEnd, StreamSeal, Usage};

/// What is wrong with a line, as the end of a sentence.
pub(super) type Wrong = &'static str;

pub(super) const UNEXPECTED: Wrong = "a field is missing, unknown or out of its place";

/// Takes fields off the front of a line.
pub(super) struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    pub(super) fn new(line: &'a [u8]) -> Self {
        Scan { rest: line }
    }

    /// Takes exactly these bytes.
    pub(super) fn word(&mut self, word: &str) -> Result<(), Wrong> {
        if self.try_word(word) { Ok(()) } else { Err(UNEXPECTED) }
    }

    /// Takes these bytes if they come next.
    pub(super) fn try_word(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word.as_bytes()) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    pub(super) fn end(&self) -> Result<(), Wrong> {
        if self.rest.is_empty() { Ok(()) } else { Err("something follows its last field") }
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Wrong> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number as it is written: no sign, no leading zero.
    pub(super) fn number(&mut self) -> Result<u64, Wrong> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        if digits == 0 || (digits > 1 && number[0] == b'0') {
            return Err("a number in it is none");
        }
        self.rest = rest;
        number
            .iter()
            .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .ok_or("a number in it is too large")
    }

    /// A number that may be negative.
    pub(super) fn signed(&mut self) -> Result<i64, Wrong> {
        let negative = self.try_word("-");
        let number = i128::from(self.number()?);
        i64::try_from(if negative { -number } else { number }).map_err(|_| "a number in it is too large")
    }

    pub(super) fn option(&mut self) -> Result<Option<u64>, Wrong> {
        if self.try_word("null") { Ok(None) } else { self.number().map(Some) }
    }

    pub(super) fn bool(&mut self) -> Result<bool, Wrong> {
        if self.try_word("true") {
            return Ok(true);
        }
        self.word("false").map(|()| false)
    }

    pub(super) fn stream(&mut self) -> Result<Stream, Wrong> {
        Stream::ALL.into_iter().find(|stream| self.try_word(stream.name())).ok_or(UNEXPECTED)
    }

    pub(super) fn ordering(&mut self) -> Result<Ordering, Wrong> {
        let known = [Ordering::Exact, Ordering::Arrival];
        known.into_iter().find(|ordering| self.try_word(ordering.name())).ok_or(UNEXPECTED)
    }

    /// `"time":"...","t":N`, which every line but two begin with.
    pub(super) fn times(&mut self) -> Result<(&'a [u8; TIME_BYTES], u64), Wrong> {
        self.word(",\"time\":\"")?;
        let text = self.array()?;
        self.word("\",\"t\":")?;
        Ok((text, self.number()?))
    }

    /// The begin's `time`, which shows to be right when the line is written again.
    pub(super) fn time_only(&mut self) -> Result<(), Wrong> {
        self.word(",\"time\":\"")?;
        self.array::<TIME_BYTES>()?;
        self.word("\"")
    }

    /// The rest of a string and its closing quote, as bytes behind `to`.
    pub(super) fn string(&mut self, to: &mut Vec<u8>) -> Result<(), Wrong> {
        loop {
            let run = self.rest.iter().position(|byte| !plain(*byte)).ok_or("a string in it has no end")?;
            to.extend_from_slice(&self.rest[..run]);
            let stop = self.rest[run];
            self.rest = &self.rest[run + 1..];
            match stop {
                b'"' => return Ok(()),
                b'\\' => {
                    let character = self.escaped()?;
                    to.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err("a string in it is not printable ASCII"),
            }
        }
    }

    /// What follows a backslash. Characters that have no need of an escape, or a shorter one, are refused.
    fn escaped(&mut self) -> Result<char, Wrong> {
        const WRONG: Wrong = "an escape in it is wrong";
        match self.array()? {
            b"\"" => Ok('"'),
            b"\\" => Ok('\\'),
            b"n" => Ok('\n'),
            b"r" => Ok('\r'),
            b"t" => Ok('\t'),
            b"u" => {
                let mut units = [self.unit()?, 0];
                let count = if matches!(units[0], 0xD800..=0xDBFF) { 2 } else { 1 };
                if count == 2 {
                    self.word("\\u").map_err(|_| WRONG)?;
                    units[1] = self.unit()?;
                }
                let character = char::decode_utf16(units[..count].iter().copied()).next();
                let character = character.and_then(Result::ok).ok_or(WRONG)?;
                let needless = matches!(character, ' '..='~' | '\n' | '\r' | '\t');
                if needless { Err(WRONG) } else { Ok(character) }
            }
            _ => Err(WRONG),
        }
    }

    fn unit(&mut self) -> Result<u16, Wrong> {
        self.hex::<2>().map(u16::from_be_bytes)
    }

    /// The rest of a base64 string and its closing quote, as bytes behind `to`. Spare bits must be zero.
    pub(super) fn base64(&mut self, to: &mut Vec<u8>) -> Result<(), Wrong> {
        const WRONG: Wrong = "base64 in it is wrong";
        loop {
            if self.try_word("\"") {
                return Ok(());
            }
            let group: &[u8; 4] = self.array()?;
            let symbols = 4 - group.iter().rev().take_while(|symbol| **symbol == b'=').count();
            let mut bits = 0;
            for symbol in &group[..symbols] {
                bits = bits << 6 | base64_bits(*symbol).ok_or(WRONG)?;
            }
            match symbols {
                4 => to.extend_from_slice(&bits.to_be_bytes()[1..]),
                3 if bits & 0b11 == 0 => to.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
                2 if bits & 0b1111 == 0 => to.push((bits >> 4) as u8),
                _ => return Err(WRONG),
            }
            if symbols < 4 {
                return self.word("\"").map_err(|_| WRONG);
            }
        }
    }

    pub(super) fn hex<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            for digit in self.array::<2>()? {
                *byte = *byte << 4
                    | match digit {
                        b'0'..=b'9' => digit - b'0',
                        b'a'..=b'f' => digit - b'a' + 10,
                        _ => return Err("hexadecimal digits in it are wrong"),
                    };
            }
        }
        Ok(bytes)
    }

    pub(super) fn uuid(&mut self) -> Result<[u8; 16], Wrong> {
        let mut bytes = [0; 16];
        for (place, byte) in bytes.iter_mut().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                self.word("-")?;
            }
            [*byte] = self.hex()?;
        }
        Ok(bytes)
    }

    /// A field that is a string, or base64 under the same name with `_b64`.
    pub(super) fn bytes(&mut self, key: &str) -> Result<Vec<u8>, Wrong> {
        let mut bytes = Vec::new();
        self.word(",\"")?;
        self.word(key)?;
        if self.try_word("\":\"") {
            self.string(&mut bytes)?;
        } else {
            self.word("_b64\":\"")?;
            self.base64(&mut bytes)?;
        }
        if bytes.len() > TEXT_BYTES_MAX { Err("a text in it is over the limit") } else { Ok(bytes) }
    }

    fn text(&mut self, key: &str) -> Result<String, Wrong> {
        String::from_utf8(self.bytes(key)?).map_err(|_| "a text in it is not UTF-8")
    }

    pub(super) fn why(&mut self) -> Result<String, Wrong> {
        self.text("why")
    }

    pub(super) fn digest(&mut self) -> Result<[u8; 32], Wrong> {
        let digest = self.hex()?;
        self.word("\"").map(|()| digest)
    }

    /// The `crc` field and the end of the line. Whether it is right shows when the line is written again.
    pub(super) fn crc(&mut self) -> Result<(), Wrong> {
        self.word(",\"crc\":\"")?;
        self.hex::<4>()?;
        self.word("\"}")?;
        self.end()
    }

    pub(super) fn stream_seal(&mut self, stream: Stream) -> Result<StreamSeal, Wrong> {
        self.word(",\"")?;
        self.word(stream.name())?;
        self.word("\":{\"bytes\":")?;
        let bytes = self.number()?;
        self.word(",\"dropped\":")?;
        let dropped = self.number()?;
        self.word(",\"blake3\":\"")?;
        let blake3 = self.digest()?;
        self.word(",\"end\":\"")?;
        let known = [StreamEnd::Eof, StreamEnd::LeakedWriter, StreamEnd::Cut];
        let end = known.into_iter().find(|end| self.try_word(end.name())).ok_or(UNEXPECTED)?;
        self.word("\"}")?;
        Ok(StreamSeal { bytes, dropped, blake3, end })
    }

    pub(super) fn cause(&mut self) -> Result<Cause, Wrong> {
        self.word(",\"cause\":\"")?;
        let bare = [
            Cause::Ended,
            Cause::WallTime,
            Cause::CpuTime,
            Cause::OutputLimit,
            Cause::Cancelled,
            Cause::StorageFull,
            Cause::DiskLimit,
            Cause::CompileFailed,
        ];
        if let Some(cause) = bare.into_iter().find(|cause| self.try_word(cause.name())) {
            return self.word("\"").map(|()| cause);
        }
        if self.try_word("internal\"") {
            return Ok(Cause::Internal { message: self.text("message")? });
        }
        if self.try_word("image_unavailable\"") {
            return Ok(Cause::ImageUnavailable { message: self.text("message")? });
        }
        self.word("start_failure\",\"errno\":")?;
        let errno = i32::try_from(self.signed()?).map_err(|_| "a number in it is too large")?;
        Ok(Cause::StartFailure { errno, step: self.text("step")?, message: self.text("message")? })
    }

    pub(super) fn exit(&mut self) -> Result<Exit, Wrong> {
        self.word(",\"exit\":")?;
        if self.try_word("null") {
            return Ok(Exit::None);
        }
        let code = self.try_word("{\"code\":");
        if !code {
            self.word("{\"signal\":")?;
        }
        let value = u8::try_from(self.number()?).map_err(|_| "a number in it is too large")?;
        self.word("}")?;
        Ok(if code { Exit::Code(value) } else { Exit::Signal(value) })
    }

    pub(super) fn usage(&mut self) -> Result<Usage, Wrong> {
        self.word(",\"usage\":{\"wall_ns\":")?;
        let wall_ns = self.number()?;
        let mut usage = Usage { wall_ns, ..Usage::default() };
        self.word(",\"cpu_user_ns\":")?;
        usage.cpu_user_ns = self.option()?;
        self.word(",\"cpu_system_ns\":")?;
        usage.cpu_system_ns = self.option()?;
        self.word(",\"memory_peak_bytes\":")?;
        usage.memory_peak_bytes = self.option()?;
        self.word(",\"processes_peak\":")?;
        usage.processes_peak = self.option()?;
        self.word(",\"processes_sampled\":")?;
        usage.processes_sampled = self.bool()?;
        self.word(",\"oom_kills\":")?;
        usage.oom_kills = self.option()?;
        self.word("}")?;
        Ok(usage)
    }
}
