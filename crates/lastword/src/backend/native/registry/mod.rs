//! Images from registries, such as Docker Hub: found by their names, and unpacked into the cache of [`lastword_image`].
//!
//! ```text
//! reference -> in `refs`, and in the cache? -> there it is, nobody is asked
//!      |
//!      +-----> Session: manifest, config, layers, as `lastword_image` wants them -> cache -> refs
//! ```
//!
//! A registry is trusted in nothing. What it gives is checked by `lastword_image`; how long it may take, how often it may fail
//! and where it may send us is decided here, in `http`. Logins are those of `docker login`.
//!
//! Why this is not done with a library for registries: `docs/images.md`.

mod credentials;
mod error;
mod http;
mod limits;
mod login;
mod reference;
mod refs;
mod session;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use lastword_image::{Cache, Image, Source};

pub use error::Error;
pub use limits::Times;
use reference::Reference;
use session::Session;

/// When a registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// If the image isn't here.
    #[default]
    Missing,
    /// What a tag means now. A digest means the same for ever, so nobody is asked about one that is here.
    Always,
}

/// What has come of an image so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Of the config and the layers, as they are stored.
    pub bytes: u64,
    /// What the manifest says that they have together. It may be a lie, or not known yet.
    pub total: Option<u64>,
}

/// How to ask.
pub struct Options<'a> {
    pub times: Times,
    /// The directory of docker's `config.json`.
    pub docker: Option<PathBuf>,
    /// Called whenever something has come.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { times: Times::default(), docker: credentials::docker_directory(), progress: None }
    }
}

/// The image that a reference means, as `docker pull` would understand it.
///
/// `refs` is a file in the directory of the cache; what references led to is kept in it. Blocks, so it is no function for
/// asynchronous code.
pub fn image(cache: &Cache, refs: &Path, reference: &str, pull: Pull) -> Result<Image, Error> {
    image_with(cache, refs, reference, pull, Options::default())
}

/// As [`image`], with other patience, another login, or somebody who watches.
pub fn image_with(
    cache: &Cache,
    refs: &Path,
    reference: &str,
    pull: Pull,
    options: Options<'_>,
) -> Result<Image, Error> {
    let reference: Reference = reference.parse()?;
    let name = reference.to_string();
    let known = match (reference.digest, pull) {
        (Some(digest), _) => Some(digest),
        (None, Pull::Missing) => refs::find(refs, &name),
        (None, Pull::Always) => None,
    };
    if let Some(digest) = known
        && let Some(image) = cache.get(&digest).map_err(|error| refused(&name, error))?
    {
        return Ok(image);
    }
    let digest = reference.digest;
    let mut session = Session::new(reference, options)?;
    let unpacked = cache.unpack(Source::Blobs { blobs: &mut session, digest });
    let image = unpacked.map_err(|error| session.failed.take().unwrap_or_else(|| refused(&name, error)))?;
    if digest.is_none() {
        // The image is here; not to know by which name costs a question the next time.
        let _ = refs::note(refs, &name, image.digest);
    }
    Ok(image)
}

fn refused(reference: &str, source: lastword_image::Error) -> Error {
    let reference = reference.to_owned();
    match source {
        lastword_image::Error::Platform { wanted, found } => Error::Platform { reference, wanted, found },
        lastword_image::Error::Digest { .. } | lastword_image::Error::Size { .. } => {
            Error::Damaged { reference, source }
        }
        _ => Error::Image { reference, source },
    }
}
