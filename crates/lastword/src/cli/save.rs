//! Kept output files, copied to where the caller wants them.
//!
//! Their names are the program's. A directory of the caller may hold anything, links that somebody planted too. So every step on
//! the way is made or opened by itself, below the directory and through no link, and a file gets its name only when all of
//! it is there and is what was sealed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use lastword_api::Execution;
use lastword_api::path::glob_path;
use lastword_sandbox::glob::Globs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::executions::Executions;
use crate::stored::absolute;

/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1024;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Copies the kept outputs that match `glob` into `dir`, which is made if it isn't there. One below /work keeps its path from
/// there on, another one its whole path: `/tmp/x` becomes `dir/tmp/x`. An older file of that name is replaced, at once; a
/// link or a directory in the way is an error.
pub(crate) fn save(
    executions: Executions<'_>,
    execution: &Execution,
    glob: &[u8],
    dir: &Path,
) -> anyhow::Result<Saved> {
    let pattern = glob_path(glob).map_err(|error| anyhow!("`{}` {error}", glob.escape_ascii()))?;
    let globs = Globs::new([&pattern[..]]);
    let files = executions.outputs(execution)?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, dir, flags, Mode::empty())
        .with_context(|| format!("cannot open {}", dir.display()))?;
    let mut saved = Saved::default();
    for file in files.iter().filter(|file| globs.matches(&absolute(&file.path))) {
        let place = || format!("cannot save {} in {}", file.path.escape_ascii(), dir.display());
        let copied = executions.output(execution.id, file, |reader| copy(reader, &root, &file.path));
        copied.with_context(place)?;
        saved.files += 1;
        saved.bytes += file.bytes;
    }
    Ok(saved)
}

fn copy(from: &mut dyn Read, root: &OwnedFd, path: &[u8]) -> anyhow::Result<()> {
    let names: Vec<&[u8]> = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/').collect();
    let Some((name, directories)) = names.split_last() else { bail!("it has no name") };
    if names.iter().any(|name| matches!(name, &b"" | &b"." | &b"..") || name.contains(&0)) {
        bail!("its path is none that a file can have");
    }
    let mut directory = root.try_clone().context("cannot copy a descriptor")?;
    for name in directories {
        directory = enter(&directory, name)?;
    }
    let new = format!(".lastword-{}.new", Uuid::now_v7().simple());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, &new, flags, Mode::from_raw_mode(0o644))
        .context("cannot make a file there")?;
    let written =
        fill(from, File::from(file)).and_then(|()| put_in_place(&directory, &new, OsStr::from_bytes(name)));
    if written.is_err() {
        // It may be in place already, or gone with the directory.
        let _ = rustix::fs::unlinkat(&directory, &new, AtFlags::empty());
    }
    written
}

/// The directory `name` of `directory`, made if there is nothing of that name.
fn enter(directory: &OwnedFd, name: &[u8]) -> anyhow::Result<OwnedFd> {
    match rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => {
            let what = format!("cannot make the directory {}", name.escape_ascii());
            return Err(anyhow::Error::new(io::Error::from(error)).context(what));
        }
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(directory.as_fd(), name, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(fd),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            bail!("{} is in the way: it is a link or a file, not a directory", name.escape_ascii())
        }
        Err(error) => {
            let what = format!("cannot enter {}", name.escape_ascii());
            Err(anyhow::Error::new(io::Error::from(error)).context(what))
        }
    }
}

fn fill(from: &mut dyn Read, mut to: File) -> anyhow::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        // The last read says whether the digest was right.
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read]).context("cannot write")?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn put_in_place(directory: &OwnedFd, new: &str, name: &OsStr) -> anyhow::Result<()> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        Err(error) => {
            return Err(anyhow::Error::new(io::Error::from(error)).context("cannot look what is there"));
        }
        Ok(there) => {
            let kind = match FileType::from_raw_mode(there.st_mode) {
                FileType::RegularFile => None,
                FileType::Symlink => Some("a symbolic link"),
                FileType::Directory => Some("a directory"),
                _ => Some("no regular file"),
            };
            if let Some(kind) = kind {
                bail!("what has that name already is {kind}");
            }
        }
    }
    // Should somebody put a link there now: a rename replaces it and doesn't follow it.
    rustix::fs::renameat(directory, new, directory, name)
        .map_err(io::Error::from)
        .context("cannot give it its name")
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
