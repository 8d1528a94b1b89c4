//! Entry by entry through a tar file, forwards only.

use std::io::{self, Read};

use super::header::{BLOCK_BYTES, Block, Header, Type};
use super::pax::{self, Pax};
use super::{Entry, Kind, TarError};
use crate::limits::{BUFFER_BYTES, PAX_BYTES_MAX};

/// Where a tar file comes from.
pub(crate) trait Input: Read {
    /// Passes over so many bytes, which are known to follow. An end before that is an error, or is seen by the next read.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// Reads entries; between two calls of [`Reader::next`], the content of the entry, as [`Read`].
pub(crate) struct Reader<I> {
    input: I,
    /// Bytes taken from the input.
    at: u64,
    /// Of the entry's content, not yet read; and what fills up its last block.
    content: u64,
    padding: u64,
    entries: u64,
    entries_max: u64,
}

/// What stands before an entry and belongs to it.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<I: Input> Reader<I> {
    /// Takes at most `entries_max` entries.
    pub(crate) fn new(input: I, entries_max: u64) -> Self {
        Reader { input, at: 0, content: 0, padding: 0, entries: 0, entries_max }
    }

    /// Where the content of the entry begins that [`Reader::next`] gave last.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Entries seen.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn into_input(self) -> I {
        self.input
    }

    pub(crate) fn input_mut(&mut self) -> &mut I {
        &mut self.input
    }

    /// The next entry, or `None` at the end. What was not read of the last one is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            let rest = self.content + self.padding;
            self.input.skip(rest).map_err(|source| self.failed(source))?;
            (self.at, self.content, self.padding) = (self.at + rest, 0, 0);
            let at = self.at;
            let damaged = |why| TarError::Header { at, why };
            let Some(block) = self.block()? else {
                return extensions.none_before_the_end(at).map(|()| None);
            };
            if block == [0; BLOCK_BYTES] {
                extensions.none_before_the_end(at)?;
                // Two blocks of zeros end the file; some writers leave it at one.
                return match self.block()? {
                    Some(second) if second != [0; BLOCK_BYTES] => {
                        Err(damaged("a block of zeros is before it"))
                    }
                    _ => Ok(None),
                };
            }
            let header = Header::parse(&block).map_err(damaged)?;
            match header.kind {
                Type::Entry(kind) => {
                    self.count()?;
                    return self.entry(kind, header, extensions).map(Some);
                }
                Type::Pax => {
                    let records = self.extension(&header)?;
                    extensions.set_pax(pax::parse(&records).map_err(damaged)?).map_err(damaged)?;
                }
                Type::PaxGlobal => {
                    self.count()?;
                    let records = self.extension(&header)?;
                    let global = pax::parse(&records).map_err(damaged)?;
                    // Names and lengths for all entries to come make no sense; times would, but nobody needs them.
                    if global.path.is_some() || global.link.is_some() || global.size.is_some() {
                        return Err(damaged("it gives one name or size to all entries"));
                    }
                }
                Type::LongName => {
                    let name = self.extension(&header)?;
                    extensions.set_name(name).map_err(damaged)?;
                }
                Type::LongLink => {
                    let link = self.extension(&header)?;
                    extensions.set_link(link).map_err(damaged)?;
                }
            }
        }
    }

    /// Entries, and headers that any number of may stand before one.
    fn count(&mut self) -> Result<(), TarError> {
        self.entries += 1;
        if self.entries > self.entries_max {
            return Err(TarError::TooManyEntries { max: self.entries_max });
        }
        Ok(())
    }

    fn entry(&mut self, kind: Kind, header: Header, extensions: Extensions) -> Result<Entry, TarError> {
        let pax = extensions.pax.unwrap_or_default();
        let name = pax.path.or(extensions.name).unwrap_or_else(|| header.name.clone());
        let size = pax.size.unwrap_or(header.size);
        if !header.may_be_sized(size) {
            return Err(TarError::entry(&name, "its header and its PAX header give two sizes"));
        }
        if kind != Kind::File && size != 0 {
            return Err(TarError::entry(&name, "it has content and is not a file"));
        }
        let link = match kind {
            Kind::Symlink | Kind::HardLink => pax.link.or(extensions.link).unwrap_or(header.link),
            _ => Vec::new(),
        };
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
        if self.at.checked_add(size).and_then(|end| end.checked_add(self.padding)).is_none() {
            return Err(TarError::entry(&name, "its size is larger than any file can be"));
        }
        let mtime = pax.mtime.unwrap_or(header.mtime);
        Ok(Entry { name, kind, size, executable: header.mode & 0o111 != 0, mtime, link })
    }

    /// The content of a header that extends the next one.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        if header.size > PAX_BYTES_MAX {
            return Err(TarError::Header { at: self.at, why: "it is an extended header, and too long" });
        }
        // Not as much as it claims, at once.
        let mut bytes = Vec::with_capacity((header.size as usize).min(BUFFER_BYTES));
        let read = self.input.by_ref().take(header.size).read_to_end(&mut bytes);
        self.at += bytes.len() as u64;
        read.map_err(|source| self.failed(source))?;
        if bytes.len() as u64 != header.size {
            return Err(TarError::Truncated { at: self.at });
        }
        self.padding = header.size.wrapping_neg() % BLOCK_BYTES as u64;
        Ok(bytes)
    }

    /// A whole block, or `None` if the file ends here.
    fn block(&mut self) -> Result<Option<Block>, TarError> {
        let (mut block, mut filled) = ([0; BLOCK_BYTES], 0);
        while let Some(free) = block.get_mut(filled..).filter(|free| !free.is_empty()) {
            match self.input.read(free) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated { at: self.at }),
                Ok(read) => (filled, self.at) = (filled + read, self.at + read as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(Some(block))
    }

    pub(crate) fn failed(&self, source: io::Error) -> TarError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated { at: self.at },
            _ => TarError::Read { at: self.at, source },
        }
    }
}

impl<I: Input> Read for Reader<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let read = self.input.read(buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.at, self.content) = (self.at + read as u64, self.content - read as u64);
        Ok(read)
    }
}

impl Extensions {
    fn set_pax(&mut self, pax: Pax) -> Result<(), &'static str> {
        match self.pax.replace(pax) {
            None => self.one_name_each(),
            Some(_) => Err("a second PAX header for one entry"),
        }
    }

    fn set_name(&mut self, bytes: Vec<u8>) -> Result<(), &'static str> {
        match self.name.replace(long(bytes)?) {
            None => self.one_name_each(),
            Some(_) => Err("a second long name for one entry"),
        }
    }

    fn set_link(&mut self, bytes: Vec<u8>) -> Result<(), &'static str> {
        match self.link.replace(long(bytes)?) {
            None => self.one_name_each(),
            Some(_) => Err("a second long link for one entry"),
        }
    }

    /// GNU's long names and PAX's are two ways to say the same; readers differ in which one wins.
    fn one_name_each(&self) -> Result<(), &'static str> {
        let Some(pax) = &self.pax else { return Ok(()) };
        if pax.path.is_some() && self.name.is_some() || pax.link.is_some() && self.link.is_some() {
            return Err("a PAX header and a long name for one entry");
        }
        Ok(())
    }

    fn none_before_the_end(&self, at: u64) -> Result<(), TarError> {
        if self.pax.is_some() || self.name.is_some() || self.link.is_some() {
            return Err(TarError::Truncated { at });
        }
        Ok(())
    }
}

/// A long name ends with one zero byte or more, and has none inside.
fn long(mut bytes: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    if bytes.is_empty() || bytes.contains(&0) {
        return Err("a long name is empty or has a zero byte in it");
    }
    Ok(bytes)
}
