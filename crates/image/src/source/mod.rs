//! Where images come from.
//!
//! ```text
//! directory with oci-layout ---------------> Layout over a directory --+
//! tar file --- has oci-layout -------------> Layout over an archive ---+--> Blobs --+
//!    |                                                  the caller's own Blobs -----+--> Plan: key, config, layers
//!    +-------- has manifest.json (docker save) -------------------------------------+
//! ```

mod archive;
mod layout;
mod saved;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::config::Config;
use crate::digest::Digest;
use crate::document::{self, Descriptor, Document};
use crate::error::Error;
use crate::limits::{DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX, Limits};
use crate::source::archive::Archive;
use crate::source::layout::{Directory, Files, Layout};
use crate::source::saved::Saved;
use crate::stream::Promise;

/// An image that can be unpacked.
pub enum Source<'a> {
    /// A file that `docker save` wrote, or an OCI archive, packed or not; or the directory of an OCI image layout.
    Path {
        path: &'a Path,
        /// Which image, if there are several: a tag, or the name in the layout's index.
        name: Option<&'a str>,
    },
    /// Anything that gives blobs, such as a registry.
    Blobs {
        blobs: &'a mut dyn Blobs,
        /// If the reference has one: of the manifest, or of the index.
        digest: Option<Digest>,
    },
}

/// Gives the parts of one image. What it gives is trusted in nothing: every digest and size is checked by the one who asks.
pub trait Blobs {
    /// The manifest or index with this digest; without one, what the reference names. Read up to 4 MiB.
    fn manifest(&mut self, digest: Option<&Digest>) -> io::Result<Box<dyn Read + '_>>;

    /// A config or a layer, as it is stored. `size` is what the manifest says of it.
    fn blob(&mut self, digest: &Digest, size: u64) -> io::Result<Box<dyn Read + '_>>;
}

impl<B: Blobs + ?Sized> Blobs for &mut B {
    fn manifest(&mut self, digest: Option<&Digest>) -> io::Result<Box<dyn Read + '_>> {
        (**self).manifest(digest)
    }

    fn blob(&mut self, digest: &Digest, size: u64) -> io::Result<Box<dyn Read + '_>> {
        (**self).blob(digest, size)
    }
}

/// What has to be unpacked, and what it is called.
pub(crate) struct Plan {
    pub(crate) digest: Digest,
    /// Of the index that the digest was chosen from, if somebody asked for that.
    pub(crate) index: Option<Digest>,
    pub(crate) config: Config,
    pub(crate) layers: Vec<Layer>,
}

pub(crate) struct Layer {
    /// Of the tar file inside.
    pub(crate) diff_id: Digest,
    pub(crate) place: Place,
}

pub(crate) enum Place {
    Blob(Promise),
    Member(String),
}

/// A source that has been looked at.
pub(crate) enum Opened<'a> {
    Blobs { blobs: Box<dyn Blobs + 'a>, top: Top },
    Saved(Saved),
}

/// Which image of all that the blobs hold.
pub(crate) enum Top {
    /// What the blobs give when asked for no digest. It may have to have this digest.
    Reference(Option<Digest>),
    /// The only one that a layout lists, or the one of this name.
    Layout(Option<String>),
}

impl<'a> Opened<'a> {
    /// `spool`: a directory for what has to be unpacked before it can be looked at.
    pub(crate) fn open(source: Source<'a>, spool: BorrowedFd<'_>, limits: &Limits) -> Result<Self, Error> {
        let (path, name) = match source {
            Source::Path { path, name } => (path, name.map(str::to_owned)),
            Source::Blobs { blobs, digest } => {
                return Ok(Opened::Blobs { blobs: Box::new(blobs), top: Top::Reference(digest) });
            }
        };
        let meta = path.metadata().map_err(|source| Error::io("look at", path, source))?;
        if meta.is_dir() {
            let layout = Layout::open(Directory::open(path)?)?;
            return Ok(Opened::Blobs { blobs: Box::new(layout), top: Top::Layout(name) });
        }
        // Before it is opened: a pipe would have us wait.
        if !meta.is_file() {
            return Err(Error::NotAnImage {
                path: path.to_owned(),
                why: "it is neither a file nor a directory",
            });
        }
        let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
        let mut archive = Archive::open(path, file, spool, limits)?;
        if archive.has("oci-layout") && archive.has("index.json") {
            return Ok(Opened::Blobs { blobs: Box::new(Layout::open(archive)?), top: Top::Layout(name) });
        }
        if !archive.has("manifest.json") {
            let why = "it has neither an oci-layout nor a manifest.json";
            return Err(Error::NotAnImage { path: path.to_owned(), why });
        }
        let list = read_file(&mut archive, "manifest.json")?;
        Ok(Opened::Saved(Saved::open(archive, &list, name.as_deref())?))
    }

    /// Finds the manifest for this machine and reads the config. Small documents only; nothing is unpacked yet.
    pub(crate) fn plan(&mut self, limits: &Limits) -> Result<Plan, Error> {
        match self {
            Opened::Saved(saved) => saved.plan(),
            Opened::Blobs { blobs, top } => plan(&mut **blobs, top, limits),
        }
    }

    /// One layer as it is stored.
    pub(crate) fn layer(&mut self, layer: &Layer) -> Result<Box<dyn Read + '_>, Error> {
        let what = format!("layer {}", layer.diff_id);
        let reader = match (self, &layer.place) {
            (Opened::Blobs { blobs, .. }, Place::Blob(promise)) => blobs.blob(&promise.digest, promise.size),
            (Opened::Saved(saved), Place::Member(name)) => saved.member(name),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        reader.map_err(|source| Error::Read { what, source })
    }
}

/// From the top down to a manifest for this machine, then its config.
fn plan(blobs: &mut dyn Blobs, top: &Top, limits: &Limits) -> Result<Plan, Error> {
    let (bytes, what) = match top {
        Top::Reference(Some(digest)) => (manifest(blobs, digest, None)?, format!("manifest {digest}")),
        Top::Reference(None) => (read_manifest(blobs, None, "the manifest")?, "the manifest".to_owned()),
        Top::Layout(_) => (read_manifest(blobs, None, "index.json")?, "index.json".to_owned()),
    };
    let first = Document::parse(&what, &bytes)?;
    let (mut digest, mut index) = (Digest::of(&bytes), None);
    let mut document = match (top, first) {
        (Top::Layout(name), Document::Index(entries)) => {
            let chosen = choose_image(&entries, name.as_deref())?;
            digest = chosen.digest;
            Document::parse(&format!("manifest {digest}"), &manifest(blobs, &digest, Some(chosen.size))?)?
        }
        (Top::Layout(_), _) => return Err(Error::document(&what, "it is not an index")),
        (Top::Reference(_), document) => document,
    };
    for _ in 0..=INDEX_DEPTH_MAX {
        match document {
            Document::Index(entries) => {
                index = index.or(Some(digest));
                let chosen = choose_platform(&entries)?;
                digest = chosen.digest;
                let bytes = manifest(blobs, &digest, Some(chosen.size))?;
                document = Document::parse(&format!("manifest {digest}"), &bytes)?;
            }
            Document::Manifest { config, layers } => {
                let (config, layers) = read_config(blobs, &config, &layers, limits)?;
                return Ok(Plan { digest, index, config, layers });
            }
        }
    }
    Err(Error::document(&format!("index {digest}"), "there are too many indexes within indexes"))
}

/// The images of a layout are listed side by side, so there is a choice to make that only the user can make.
fn choose_image<'a>(entries: &'a [Descriptor], name: Option<&str>) -> Result<&'a Descriptor, Error> {
    let all_names = || {
        let mut names: Vec<String> = entries
            .iter()
            .flat_map(Descriptor::names)
            .map(|name| crate::error::shown(name.as_bytes()))
            .collect();
        names.sort();
        names.dedup();
        names
    };
    let named: Vec<_> = match name {
        Some(name) => entries.iter().filter(|entry| entry.names().any(|of| of == name)).collect(),
        None => entries.iter().collect(),
    };
    if let (true, Some(name)) = (named.is_empty(), name) {
        return Err(Error::NoSuchName { name: name.to_owned(), names: all_names() });
    }
    let mut usable: Vec<_> = named.iter().filter(|entry| entry.runs_here() == Some(true)).collect();
    if usable.is_empty() {
        usable = named.iter().filter(|entry| entry.runs_here().is_none()).collect();
    }
    match usable[..] {
        [] => Err(no_platform(named.into_iter())),
        [first, ref others @ ..] if others.iter().all(|other| other.digest == first.digest) => Ok(first),
        _ => Err(Error::Ambiguous { names: all_names() }),
    }
}

/// The entries of an image's index are alternatives; the first that fits is meant.
fn choose_platform(entries: &[Descriptor]) -> Result<&Descriptor, Error> {
    let fits = |wanted| entries.iter().find(|entry| entry.runs_here() == wanted);
    fits(Some(true)).or_else(|| fits(None)).ok_or_else(|| no_platform(entries.iter()))
}

fn no_platform<'a>(entries: impl Iterator<Item = &'a Descriptor>) -> Error {
    let mut found: Vec<_> = entries.filter_map(Descriptor::platform).collect();
    found.sort();
    found.dedup();
    let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    Error::Platform { wanted: format!("linux/{}", document::architecture()), found }
}

fn read_config(
    blobs: &mut dyn Blobs,
    config: &Descriptor,
    layers: &[Descriptor],
    limits: &Limits,
) -> Result<(Config, Vec<Layer>), Error> {
    let what = format!("config {}", config.digest);
    document::check_size(&what, config.size)?;
    let reader = blobs.blob(&config.digest, config.size);
    let bytes = read_all(&what, reader)?;
    check(&what, &bytes, &config.digest, Some(config.size))?;
    let (config, diff_ids) = document::parse_config(&what, &bytes)?;
    if diff_ids.len() != layers.len() {
        return Err(Error::document(&what, "it does not list as many layers as the manifest"));
    }
    let mut stored = 0_u64;
    for layer in layers {
        stored = stored.saturating_add(layer.size);
        if stored > limits.bytes {
            let what = format!("layer {} with those before it", layer.digest);
            return Err(Error::TooLarge { what, bytes: stored, max: limits.bytes });
        }
    }
    let layers = layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
        let promise = Promise { digest: layer.digest, size: layer.size };
        Layer { diff_id, place: Place::Blob(promise) }
    });
    Ok((config, layers.collect()))
}

/// A manifest or an index that has to have this digest.
fn manifest(blobs: &mut dyn Blobs, digest: &Digest, size: Option<u64>) -> Result<Vec<u8>, Error> {
    let what = format!("manifest {digest}");
    document::check_size(&what, size.unwrap_or_default())?;
    let bytes = read_manifest(blobs, Some(digest), &what)?;
    check(&what, &bytes, digest, size)?;
    Ok(bytes)
}

fn read_manifest(blobs: &mut dyn Blobs, digest: Option<&Digest>, what: &str) -> Result<Vec<u8>, Error> {
    let reader = blobs.manifest(digest);
    read_all(what, reader)
}

fn check(what: &str, bytes: &[u8], digest: &Digest, size: Option<u64>) -> Result<(), Error> {
    if let Some(expected) = size.filter(|size| *size != bytes.len() as u64) {
        return Err(Error::Size { what: what.to_owned(), expected });
    }
    let found = Digest::of(bytes);
    if found != *digest {
        return Err(Error::Digest { what: what.to_owned(), expected: *digest, found });
    }
    Ok(())
}

fn read_file(files: &mut impl Files, name: &str) -> Result<Vec<u8>, Error> {
    let reader = files.open(name);
    read_all(name, reader)
}

/// A document, or an error if it is longer than one may be.
fn read_all(what: &str, reader: io::Result<Box<dyn Read + '_>>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = reader.and_then(|reader| reader.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes));
    let read = read.map_err(|source| Error::Read { what: what.to_owned(), source })?;
    document::check_size(what, read as u64)?;
    Ok(bytes)
}
