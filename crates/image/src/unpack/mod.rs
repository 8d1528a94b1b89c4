//! From layers to one tree: each layer is read once, checked, and applied to what the layers before it have left.

mod remove;
mod tree;

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::Error;
use crate::limits::{Limits, TRAILING_BYTES_MAX};
use crate::name::{self, Meaning};
use crate::source::{Layer, Opened, Place, Plan};
use crate::stream::Stream;
use crate::tar::{Entry, Kind, Reader, TarError};

pub(crate) use remove::{Trash, names, open_directory};
use tree::{Failed, Tree};

/// What a finished tree amounts to.
pub(crate) struct Unpacked {
    /// About what it takes on disk.
    pub(crate) bytes: u64,
    /// Entries that are not in it on purpose.
    pub(crate) left_out: u64,
}

/// What is left of the limits, over all layers.
struct Budget {
    bytes: u64,
    entries: u64,
    left_out: u64,
}

/// Makes `rootfs` in `directory`, an empty one, which is at `path`. On an error, what is there is of no use.
pub(crate) fn unpack(
    source: &mut Opened<'_>,
    plan: &Plan,
    directory: impl AsFd,
    path: &Path,
    limits: &Limits,
) -> Result<Unpacked, Error> {
    let refused = |layer: &Layer| {
        let layer = layer.diff_id;
        move |source| Error::Layer { layer, source }
    };
    let mut budget = Budget { bytes: limits.bytes, entries: limits.entries, left_out: 0 };
    let mut tree =
        Tree::create(directory).map_err(|source| Error::io("make the root directory in", path, source))?;
    for layer in &plan.layers {
        let what = format!("layer {}", layer.diff_id);
        let promise = match layer.place {
            Place::Blob(promise) => Some(promise),
            Place::Member(_) => None,
        };
        let stream = Stream::open(source.layer(layer)?, promise, budget.bytes)
            .map_err(|source| Error::Read { what: what.clone(), source })?;
        let mut reader = Reader::new(stream, budget.entries);
        let applied = apply_all(&mut reader, &mut tree, &mut budget);
        budget.entries -= reader.entries().min(budget.entries);
        let stream = reader.into_input();
        budget.bytes -= stream.given().min(budget.bytes);
        if let Err(error) = applied {
            // A blob that isn't the one that was promised explains every other error.
            stream.blame(&what, promise)?;
            return Err(refused(layer)(error));
        }
        let found = stream.finish(&what, promise)?;
        if found != layer.diff_id {
            return Err(Error::Digest { what, expected: layer.diff_id, found });
        }
        let end = |source| TarError::apply(b"/", "set the times of directories", source);
        tree.end_layer().map_err(end).map_err(refused(layer))?;
    }
    Ok(Unpacked { bytes: tree.bytes(), left_out: budget.left_out })
}

fn apply_all<R: Read>(
    reader: &mut Reader<Stream<R>>,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<(), TarError> {
    while let Some(entry) = reader.next()? {
        let left = budget.bytes.saturating_sub(reader.at());
        // Before anything is written: a file's length is nothing but a number.
        if entry.size > left {
            return Err(TarError::TooLarge {
                name: crate::error::shown(&entry.name),
                bytes: entry.size,
                left,
            });
        }
        apply(&entry, reader, tree, budget)?;
        // One long name makes a thousand directories.
        if reader.entries().saturating_add(tree.implied()) > budget.entries {
            return Err(TarError::TooManyEntries { max: budget.entries });
        }
    }
    reader.input_mut().drain(TRAILING_BYTES_MAX).map_err(|source| reader.failed(source))
}

fn apply<R: Read>(
    entry: &Entry,
    reader: &mut Reader<Stream<R>>,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<(), TarError> {
    let refused = |why| TarError::entry(&entry.name, why);
    let failed = |action: &'static str| move |source| TarError::apply(&entry.name, action, source);
    let path = name::clean(&entry.name).map_err(refused)?;
    let (above, _) = name::split(&path);
    match name::meaning(&path).map_err(refused)? {
        Meaning::Plain => {}
        Meaning::Whiteout(hidden) => {
            return tree.whiteout(above, hidden).map_err(failed("apply the whiteout"));
        }
        Meaning::Opaque => return tree.opaque(above).map_err(failed("apply the opaque whiteout")),
        Meaning::Meta => {
            budget.left_out += 1;
            return Ok(());
        }
    }
    if path.is_empty() && entry.kind != Kind::Directory {
        return Err(refused("it is the root, and not a directory"));
    }
    match entry.kind {
        Kind::Directory => tree.directory(&path, entry.mtime).map_err(failed("make the directory")),
        Kind::File => match tree.file(&path, entry.executable, entry.mtime, reader) {
            Ok(()) => Ok(()),
            Err(Failed::Content(source)) => Err(reader.failed(source)),
            Err(Failed::Disk(source)) => Err(failed("write the file")(source)),
        },
        Kind::Symlink => {
            name::link_text(&entry.link).map_err(refused)?;
            tree.symlink(&path, &entry.link).map_err(failed("make the symbolic link"))
        }
        Kind::HardLink => {
            let target =
                name::clean(&entry.link).map_err(|_| refused("what it links to has no clean name"))?;
            if target.is_empty() {
                return Err(refused("it links to the root"));
            }
            tree.hard_link(&path, &target).map_err(failed("make the hard link"))
        }
        Kind::Device if !path.starts_with(b"dev/") => Err(refused("it is a device outside of dev/")),
        Kind::Device | Kind::Fifo => {
            budget.left_out += 1;
            Ok(())
        }
    }
}
