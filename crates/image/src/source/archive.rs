//! A tar file that holds an image. It is read through once for the places of its members; they are then read where they lie.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::layout::Files;
use crate::error::Error;
use crate::limits::{Limits, MEMBER_LINKS_MAX, MEMBERS_MAX};
use crate::name;
use crate::stream::Stream;
use crate::tar::{Entry, Input, Kind, Reader, TarError};

pub(crate) struct Archive {
    file: File,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Clone)]
enum Member {
    At { offset: u64, size: u64 },
    Link(Vec<u8>),
}

impl Archive {
    pub(crate) fn open(
        path: &Path,
        file: File,
        spool: BorrowedFd<'_>,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let unreadable = |source: io::Error| Error::io("read", path, source);
        let mut magic = [0; 4];
        let read = file.read_at(&mut magic, 0).map_err(unreadable)?;
        let packed = magic.get(..read).is_some_and(|magic| magic.starts_with(&[0x1f, 0x8b]))
            || magic == [0x28, 0xb5, 0x2f, 0xfd];
        let file = if packed { unpack(path, file, spool, limits)? } else { file };
        let length = file.metadata().map_err(unreadable)?.len();
        let refused = |source| Error::Archive { path: path.to_owned(), source };
        let members = members(&file, length).map_err(refused)?;
        Ok(Archive { file, members })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    /// Follows links within the archive by their text: there are no directories that could be links themselves.
    fn find(&self, name: &str) -> io::Result<Section<'_>> {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, "it is not in the archive");
        let mut name =
            name::clean(name.as_bytes()).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        for _ in 0..=MEMBER_LINKS_MAX {
            match self.members.get(&name).ok_or_else(not_found)? {
                Member::At { offset, size } => {
                    return Ok(Section { file: &self.file, offset: *offset, left: *size });
                }
                Member::Link(target) => name = follow(&name, target).ok_or_else(not_found)?,
            }
        }
        Err(io::Error::other("too many links within the archive"))
    }
}

impl Files for Archive {
    fn open(&mut self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.find(name)?))
    }
}

/// `docker save` before version 25 has `ID/layer.tar -> ../OTHER/layer.tar` for a layer that is there already.
fn follow(name: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> =
        name::split(name).0.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn members(file: &File, length: u64) -> Result<HashMap<Vec<u8>, Member>, TarError> {
    let mut members = HashMap::new();
    let mut reader = Reader::new(Section { file, offset: 0, left: length }, MEMBERS_MAX);
    while let Some(entry) = reader.next()? {
        let Entry { name, kind, size, link, .. } = entry;
        let path = name::clean(&name).map_err(|why| TarError::entry(&name, why))?;
        let member = match kind {
            Kind::File if size > length.saturating_sub(reader.at()) => {
                return Err(TarError::Truncated { at: length });
            }
            Kind::File => Member::At { offset: reader.at(), size },
            Kind::Symlink => Member::Link(link),
            Kind::Directory => continue,
            _ => {
                return Err(TarError::entry(
                    &name,
                    "an archive of images has files, links and directories only",
                ));
            }
        };
        if members.insert(path, member).is_some() {
            return Err(TarError::entry(&name, "it is there twice"));
        }
    }
    Ok(members)
}

/// Into a file without a name, so that its members can be read in any order.
fn unpack(path: &Path, file: File, spool: BorrowedFd<'_>, limits: &Limits) -> Result<File, Error> {
    let mut unpacked = nameless(spool).map_err(|source| Error::io("make a file to unpack", path, source))?;
    let mut stream =
        Stream::open(file, None, limits.bytes).map_err(|source| Error::io("read", path, source))?;
    io::copy(&mut stream, &mut unpacked).map_err(|source| Error::io("unpack", path, source))?;
    Ok(unpacked)
}

fn nameless(spool: BorrowedFd<'_>) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(fd) = openat(spool, ".", flags | OFlags::TMPFILE, mode) {
        return Ok(File::from(fd));
    }
    // Not every file system can do that. If we are killed in between, the sweep of the cache finds it.
    let name = format!("spool-{}-{:?}", std::process::id(), std::thread::current().id());
    let fd = openat(spool, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    unlinkat(spool, &name, AtFlags::empty())?;
    Ok(File::from(fd))
}

/// A part of a file. An end before its end is an error.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.offset)?;
        if read == 0 && wanted != 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.offset, self.left) = (self.offset + read as u64, self.left - read as u64);
        Ok(read)
    }
}

impl Input for Section<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let left = self.left.checked_sub(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        (self.offset, self.left) = (self.offset + bytes, left);
        Ok(())
    }
}
