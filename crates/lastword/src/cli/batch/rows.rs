//! The input: lines as they arrive, and what a line says.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use lastword_api::NewExecution;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, READ_BYTES, ROW_BYTES_MAX};
use crate::execution::Cancel;

/// Bytes of BLAKE3 that tell one line from another.
const DIGEST_BYTES: usize = 16;

/// What a line is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(pub(super) [u8; DIGEST_BYTES]);

impl Digest {
    pub(super) fn of(line: &[u8]) -> Digest {
        let mut short = [0; DIGEST_BYTES];
        short.copy_from_slice(&blake3::hash(line).as_bytes()[..DIGEST_BYTES]);
        Digest(short)
    }

    pub(super) fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn from_hex(text: &str) -> Option<Digest> {
        let mut bytes = [0; DIGEST_BYTES];
        let digits = text.as_bytes();
        if digits.len() != 2 * DIGEST_BYTES || !digits.is_ascii() {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        Some(Digest(bytes))
    }
}

/// One line that is not blank.
#[derive(Debug)]
pub(super) struct Line {
    /// Counts from 0.
    pub(super) row: u64,
    pub(super) digest: Digest,
    /// Without its end. `None`: it is too long to be a row.
    pub(super) bytes: Option<Vec<u8>>,
}

/// Lines of a descriptor. Each is given out as soon as it is there.
pub(super) struct Lines<'a> {
    source: OwnedFd,
    stop: &'a Cancel,
    buffer: Vec<u8>,
    /// The part of `buffer` that was given out.
    taken: usize,
    /// The part of `buffer` that has no line end.
    looked: usize,
    /// The line at hand is past its maximum: its digest, and nothing else of it is kept.
    too_long: Option<Digest>,
    ended: bool,
    row: u64,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(source: OwnedFd, stop: &'a Cancel) -> Lines<'a> {
        Lines {
            source,
            stop,
            buffer: Vec::new(),
            taken: 0,
            looked: 0,
            too_long: None,
            ended: false,
            row: 0,
            hasher: blake3::Hasher::new(),
            bytes: 0,
        }
    }

    /// The next row. `None` at the end of the input, and when the batch is to stop.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if self.stop.is_asked() {
                return Ok(None);
            }
            let line = match self.end_of_line() {
                Some(end) => {
                    let line = self.cut(end);
                    self.taken = end + 1;
                    self.looked = self.taken;
                    line
                }
                None if self.ended => {
                    let line = self.cut(self.buffer.len());
                    self.taken = self.buffer.len();
                    self.looked = self.taken;
                    match line {
                        None => return Ok(None),
                        line => line,
                    }
                }
                None => {
                    self.read()?;
                    continue;
                }
            };
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    /// Everything was read: BLAKE3 of all of it, and its length.
    pub(super) fn whole(&self) -> Option<(String, u64)> {
        self.ended.then(|| (self.hasher.finalize().to_hex().to_string(), self.bytes))
    }

    fn end_of_line(&mut self) -> Option<usize> {
        let found = self.buffer[self.looked..].iter().position(|byte| *byte == b'\n');
        if found.is_none() {
            self.looked = self.buffer.len();
        }
        found.map(|at| self.looked + at)
    }

    /// The line that ends before `end`; `None` if it is blank.
    fn cut(&mut self, end: usize) -> Option<Line> {
        let line = &self.buffer[self.taken..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (digest, bytes) = match self.too_long.take() {
            Some(digest) => (digest, None),
            None if line.iter().all(u8::is_ascii_whitespace) => return None,
            None if line.len() > ROW_BYTES_MAX => (Digest::of(line), None),
            None => (Digest::of(line), Some(line.to_vec())),
        };
        let row = self.row;
        self.row += 1;
        Some(Line { row, digest, bytes })
    }

    fn read(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.taken);
        self.looked -= self.taken;
        self.taken = 0;
        if self.buffer.len() > ROW_BYTES_MAX + 1 {
            self.too_long = self.too_long.or(Some(Digest::of(&self.buffer)));
            self.buffer = Vec::new();
            self.looked = 0;
        }
        if !self.wait()? {
            return Ok(());
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_BYTES, 0);
        let read = loop {
            match rustix::io::read(&self.source, &mut self.buffer[filled..]) {
                Err(Errno::INTR) => {}
                // Whoever shares it with us may have made it non-blocking; the next wait is for more.
                Err(Errno::AGAIN) => {
                    self.buffer.truncate(filled);
                    return Ok(());
                }
                read => break read,
            }
        };
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        self.hasher.update(&self.buffer[filled..]);
        self.bytes += (self.buffer.len() - filled) as u64;
        Ok(())
    }

    /// Waits for more. False if the batch is to stop instead.
    fn wait(&self) -> io::Result<bool> {
        loop {
            let mut fds = vec![PollFd::new(&self.source, PollFlags::IN)];
            fds.extend(self.stop.wake().map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) if self.stop.is_asked() => return Ok(false),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Digest and length of a regular file's rest, and its rows. The position is where it was.
pub(super) fn look_over(file: &std::fs::File) -> io::Result<(String, u64, u64)> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = file;
    let begin = file.stream_position()?;
    let (mut hasher, mut bytes, mut rows) = (blake3::Hasher::new(), 0, 0);
    let mut buffer = vec![0; READ_BYTES];
    let mut blank = true;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let part = &buffer[..read];
        hasher.update(part);
        bytes += read as u64;
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            blank &= piece.iter().all(u8::is_ascii_whitespace);
            if piece.ends_with(b"\n") {
                rows += u64::from(!blank);
                blank = true;
            }
        }
    }
    rows += u64::from(!blank);
    file.seek(SeekFrom::Start(begin))?;
    Ok((hasher.finalize().to_hex().to_string(), bytes, rows))
}

/// What a line says.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: Option<String>,
    pub(super) new: NewExecution,
}

/// Why a line is no row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadRow {
    pub(super) key: Option<String>,
    /// Names the field.
    pub(super) message: String,
}

impl Row {
    pub(super) fn parse(line: &[u8]) -> Result<Row, BadRow> {
        let at = RefCell::new(String::new());
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let parsed = RowSeed { at: &at }
            .deserialize(&mut deserializer)
            .and_then(|row| deserializer.end().map(|()| row));
        let row = parsed.map_err(|error| BadRow { key: key(line), message: said(&at.borrow(), &error) })?;
        match row.key.as_ref().map_or(0, String::len) {
            bytes if bytes > KEY_BYTES_MAX => Err(BadRow {
                key: None,
                message: format!("key has {bytes} bytes: at most {KEY_BYTES_MAX} are allowed"),
            }),
            _ => Ok(row),
        }
    }
}

/// The key alone, of a line that may be wrong in every other way.
pub(super) fn key(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Key {
        key: Option<serde_json::Value>,
    }
    match serde_json::from_slice::<Key>(line).ok()?.key? {
        serde_json::Value::String(key) if key.len() <= KEY_BYTES_MAX => Some(key),
        _ => None,
    }
}

fn said(field: &str, error: &serde_json::Error) -> String {
    if ["secrets", "env"].contains(&field) && error.is_data() {
        // serde quotes what it found, and that may be secret.
        return format!("{field} has to be an object of names and texts");
    }
    let mut message = match field {
        "" => format!("the line is no request: {error}"),
        field => format!("{field}: {error}"),
    };
    shorten(&mut message);
    message
}

/// A sentence may quote what a row says, and that may be long.
pub(super) fn shorten(message: &mut String) {
    if message.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(cut.unwrap_or(0));
        message.push_str("...");
    }
}

/// A request with one more field. `at` is told which field is being read, so that an error can name it.
struct RowSeed<'a> {
    at: &'a RefCell<String>,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = Row;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = Row;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Row, A::Error> {
        let mut key = None;
        let fields = Fields { map, key: &mut key, at: self.at };
        let new = NewExecution::deserialize(MapAccessDeserializer::new(fields))?;
        self.at.borrow_mut().clear();
        Ok(Row { key, new })
    }
}

/// All fields but the key.
struct Fields<'a, A> {
    map: A,
    key: &'a mut Option<String>,
    at: &'a RefCell<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        loop {
            self.at.borrow_mut().clear();
            let Some(name) = self.map.next_key::<String>()? else { return Ok(None) };
            if name != "key" {
                // An unknown name is said by the error itself.
                let key: Result<K::Value, A::Error> = seed.deserialize(name.clone().into_deserializer());
                self.at.replace(name);
                return key.map(Some);
            }
            self.at.replace(name);
            if self.key.is_some() {
                return Err(de::Error::duplicate_field("key"));
            }
            *self.key = self.map.next_value()?;
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    fn message(line: &str) -> String {
        Row::parse(line.as_bytes()).unwrap_err().message
    }

    #[test]
    fn a_row_is_a_request_with_a_key() {
        let row = Row::parse(br#"{"command": ["x"], "key": "k", "limits": {"pids": 3}}"#).unwrap();
        assert_eq!(row.key.as_deref(), Some("k"));
        assert_eq!(row.new.limits.pids, Some(3));
        assert_eq!(Row::parse(br#"{"command": ["x"]}"#).unwrap().key, None);
        assert_eq!(Row::parse(br#"{"command": ["x"], "key": null}"#).unwrap().key, None);
    }

    #[test]
    fn the_field_is_named() {
        for (line, named) in [
            ("null", "the line is no request"),
            ("[]", "the line is no request"),
            (r#"{"command": ["x"]"#, "EOF"),
            (r#"{"command": ["x"]} x"#, "trailing characters"),
            (r#"{"command": "x"}"#, "command: invalid type"),
            (r#"{"command": ["x"], "command": []}"#, "duplicate field `command`"),
            (r#"{"key": "a", "key": "b"}"#, "duplicate field `key`"),
            (r#"{"limits": {"memry": 1}}"#, "limits: unknown field `memry`"),
            (r#"{"typo": 1}"#, "unknown field `typo`"),
            (r#"{"key": 7}"#, "key: invalid type"),
        ] {
            assert!(message(line).contains(named), "{line}: {}", message(line));
        }
        let long = format!(r#"{{"command": ["x"], "key": "{}"}}"#, "k".repeat(KEY_BYTES_MAX + 1));
        assert!(message(&long).contains("key has 1025 bytes"));
        let wide = format!(r#"{{"runtime": ["{}"]}}"#, "é".repeat(4000));
        assert!(message(&wide).len() < MESSAGE_BYTES_MAX + 10);
    }

    #[test]
    fn a_key_is_found_in_a_wrong_row_and_a_secret_is_not_said() {
        let bad = Row::parse(br#"{"command": 7, "key": "mine"}"#).unwrap_err();
        assert_eq!(bad.key.as_deref(), Some("mine"));
        for line in [r#"{"secrets": "hidden"}"#, r#"{"secrets": {"K": ["hidden"]}}"#, r#"{"env": "hidden"}"#]
        {
            assert!(!message(line).contains("hidden"), "{}", message(line));
        }
    }

    fn lines(pieces: &[&[u8]]) -> Vec<(u64, Option<String>)> {
        let (reader, mut writer) = io::pipe().unwrap();
        let stop = Cancel::default();
        let mut lines = Lines::new(reader.into(), &stop);
        let mut found = Vec::new();
        let mut note = |line: Line| {
            found.push((line.row, line.bytes.map(|bytes| String::from_utf8(bytes).unwrap())));
        };
        for piece in pieces {
            writer.write_all(piece).unwrap();
            // Every line that ends in this piece is given out before the next one is there.
            for _ in 0..String::from_utf8_lossy(piece).matches(";\n").count() {
                note(lines.next().unwrap().unwrap());
            }
        }
        drop(writer);
        while let Some(line) = lines.next().unwrap() {
            note(line);
        }
        assert_eq!(lines.whole().unwrap().1, pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
        found
    }

    #[test]
    fn lines_come_as_they_arrive() {
        let text = |row, text: &str| (row, Some(text.to_owned()));
        assert_eq!(lines(&[]), []);
        assert_eq!(lines(&[b"\n \r\n\t"]), []);
        assert_eq!(
            lines(&[b"a;\n", b"b;\r\nc", b"d;\n\n", b"e"]),
            [text(0, "a;"), text(1, "b;"), text(2, "cd;"), text(3, "e")]
        );
    }

    #[test]
    fn a_batch_that_stops_waits_for_no_more_rows() {
        let (reader, _writer) = io::pipe().unwrap();
        let stop = Cancel::default();
        let mut lines = Lines::new(reader.as_fd().try_clone_to_owned().unwrap(), &stop);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || lines.next().unwrap().is_none());
            stop.cancel();
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn a_file_is_looked_over_from_where_it_stands() {
        use std::io::{Seek, SeekFrom};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"skipped\na\n\n  \nb").unwrap();
        file.seek(SeekFrom::Start(8)).unwrap();
        let (digest, bytes, rows) = look_over(&file).unwrap();
        assert_eq!((bytes, rows), (7, 2));
        assert_eq!(digest, blake3::hash(b"a\n\n  \nb").to_hex().to_string());
        assert_eq!(file.stream_position().unwrap(), 8);
    }

    #[test]
    fn digests_come_back_from_hex() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        for bad in ["", "zz", &"z".repeat(32), &"é".repeat(16)] {
            assert_eq!(Digest::from_hex(bad), None);
        }
    }
}
