//! What can go wrong with an image, with the path, digest or name it happened to. Sources are chained, not printed.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::limits::SHOWN_BYTES_MAX;
use crate::tar::TarError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of our own files: the cache, or a file that somebody named.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the image cache {} cannot be used: {why}", path.display())]
    Cache { path: PathBuf, why: &'static str },
    #[error("{} is not an image: {why}", path.display())]
    NotAnImage { path: PathBuf, why: &'static str },
    /// The tar file around an image, not one of its layers.
    #[error("the archive {} is refused", path.display())]
    Archive { path: PathBuf, source: TarError },
    /// Where the image comes from gave an error, or too little.
    #[error("cannot read {what}")]
    Read { what: String, source: io::Error },
    #[error("{what} is refused: {why}")]
    Document { what: String, why: String },
    #[error("{what} has {bytes} bytes, more than the {max} that are allowed")]
    TooLarge { what: String, bytes: u64, max: u64 },
    #[error("{what} has another number of bytes than the {expected} that it should have")]
    Size { what: String, expected: u64 },
    #[error("{what} does not have the digest that it should have: it is {found}, not {expected}")]
    Digest { what: String, expected: Digest, found: Digest },
    #[error("the image is for {found}, this machine runs {wanted}")]
    Platform { wanted: String, found: String },
    #[error("there are several images in it; name one of: {}", names.join(", "))]
    Ambiguous { names: Vec<String> },
    #[error("there is no image `{name}` in it{}", offer(names))]
    NoSuchName { name: String, names: Vec<String> },
    #[error("layer {layer} is refused")]
    Layer { layer: Digest, source: TarError },
    #[error("the image's user `{user}` cannot be resolved: {why}")]
    User { user: String, why: &'static str },
}

fn offer(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(", only: {}", names.join(", ")) }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io { action, path: path.to_path_buf(), source: source.into() }
    }

    pub(crate) fn document(what: &str, why: impl ToString) -> Self {
        Error::Document { what: what.to_owned(), why: why.to_string() }
    }
}

/// What an image calls something, fit for a message: printable, and not long.
pub(crate) fn shown(name: &[u8]) -> String {
    match name.get(..SHOWN_BYTES_MAX) {
        Some(start) if name.len() > SHOWN_BYTES_MAX => format!("{}...", start.escape_ascii()),
        _ => name.escape_ascii().to_string(),
    }
}
