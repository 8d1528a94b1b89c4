//! A reader of tar files that trusts nothing: ustar, PAX and GNU long names.
//!
//! Where two readers could understand a file differently, it is refused instead: two lengths for one entry, two names of the
//! same kind, lengths of what has no content. Sparse files are refused altogether.

mod header;
mod pax;
mod read;

use std::io;

use crate::error::shown;

pub(crate) use read::{Input, Reader};

/// Why a tar file is refused, or was not read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    #[error("cannot read on after {at} bytes")]
    Read { at: u64, source: io::Error },
    #[error("it is cut off after {at} bytes")]
    Truncated { at: u64 },
    #[error("the header at byte {at} is damaged: {why}")]
    Header { at: u64, why: &'static str },
    #[error("it has more than {max} entries")]
    TooManyEntries { max: u64 },
    #[error("entry `{name}` has {bytes} bytes, more than the {left} that are left of what is allowed")]
    TooLarge { name: String, bytes: u64, left: u64 },
    #[error("entry `{name}`: {why}")]
    Entry { name: String, why: &'static str },
    /// The entry was in order; the file system did not take it.
    #[error("entry `{name}`: cannot {action}")]
    Apply { name: String, action: &'static str, source: io::Error },
}

impl TarError {
    pub(crate) fn entry(name: &[u8], why: &'static str) -> Self {
        TarError::Entry { name: shown(name), why }
    }

    pub(crate) fn apply(name: &[u8], action: &'static str, source: impl Into<io::Error>) -> Self {
        TarError::Apply { name: shown(name), action, source: source.into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Device,
    Fifo,
}

/// Seconds since 1970, never before, and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mtime {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// One entry, as it stands in the file: its names are not looked at here.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Of what follows; 0 if it isn't a file.
    pub(crate) size: u64,
    pub(crate) executable: bool,
    pub(crate) mtime: Mtime,
    /// What a symbolic or hard link leads to; empty for others.
    pub(crate) link: Vec<u8>,
}
