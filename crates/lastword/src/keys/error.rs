use std::io;
use std::path::{Path, PathBuf};

use super::{FILE_BYTES_MAX, KEYS_MAX, NAME_BYTES_MAX, TENANT_BYTES_MAX};

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is longer than {FILE_BYTES_MAX} bytes", .path.display())]
    TooLong { path: PathBuf },
    #[error("{} is damaged", .path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("{} has version {found}, and this lastword knows {known}", .path.display())]
    Version { path: PathBuf, found: u64, known: u64 },
    #[error("{} is damaged: {what}", .path.display())]
    Content { path: PathBuf, what: String },
    #[error("there are {KEYS_MAX} keys, which is all that may be: revoke some")]
    TooMany,
    #[error("there is no key {id}")]
    Unknown { id: String },
    #[error("\"{text}\" is no scope: use run, read or admin")]
    Scope { text: String },
    #[error("a key without a scope can do nothing: use run, read or admin")]
    NoScope,
    #[error(
        "\"{text}\" is no name of a tenant: 1 to {TENANT_BYTES_MAX} of a-z, 0-9, point, underscore and dash"
    )]
    Tenant { text: String },
    #[error("the name of a key has at most {NAME_BYTES_MAX} bytes")]
    Name,
    #[error("the kernel gives no random bytes")]
    Random(#[source] io::Error),
}

impl Error {
    pub(super) fn io(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io { doing, path: path.to_path_buf(), source: source.into() }
    }
}
