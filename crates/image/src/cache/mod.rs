//! Unpacked images on disk, shared by any number of processes.
//!
//! ```text
//! DIR/                 0700
//!   format             "lastword images 1\n"
//!   entries/HEX/       one image, whole and synced: it gets here by a rename
//!     rootfs/
//!     image.json       digest, config, size
//!   locks/HEX          flock: shared by who uses the entry, exclusive by who makes or removes it; its mtime is the last use
//!   tmp/HEX/           an entry that is being made or removed by who has its lock exclusively; without that, a leftover
//!   known.json         digests of files that need not be read again
//!   known.lock         flock: exclusive by who changes known.json
//! ```

mod entry;
mod known;
mod lock;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, renameat};
use serde::{Deserialize, Serialize};

use crate::config::{Config, User};
use crate::digest::Digest;
use crate::error::Error;
use crate::limits::{CACHE_TRIES_MAX, Limits};
use crate::source::{Opened, Plan, Source};
use crate::unpack::{self, names};
use crate::users;
use known::Known;
use lock::{Lock, lock};

const FORMAT: &[u8] = b"lastword images 1\n";

/// A directory of unpacked images.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    entries: OwnedFd,
    locks: OwnedFd,
    tmp: OwnedFd,
    bytes_max: u64,
    limits: Limits,
}

/// An unpacked image, kept from removal while this lives.
#[derive(Debug)]
#[non_exhaustive]
pub struct Image {
    /// Of its manifest; of its config if it came from a `docker save` file that has no manifest.
    pub digest: Digest,
    /// Not to be written to: others use it at the same time.
    pub rootfs: PathBuf,
    pub config: Config,
    /// About what it takes on disk.
    pub bytes: u64,
    /// Entries that were left out: devices below `dev/`, pipes.
    pub left_out: u64,
    lock: Lock,
}

/// `image.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    config: Config,
    bytes: u64,
    left_out: u64,
}

impl Image {
    /// A descriptor that keeps the image as this value does; for a process that goes on using it when we have ended. It may be
    /// inherited: the last one that is closed lets go.
    pub fn hold(&self) -> io::Result<OwnedFd> {
        self.lock.share()
    }

    /// Whom `config.user` means, by the image's own files.
    pub fn user(&self) -> Result<User, Error> {
        self.resolve_user(&self.config.user)
    }

    /// Whom another text than the image's own means: `name`, `uid`, `uid:gid`, `name:group`.
    pub fn resolve_user(&self, user: &str) -> Result<User, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.rootfs, flags, Mode::empty());
        users::resolve(root.map_err(|error| Error::io("open", &self.rootfs, error))?, user)
    }
}

impl Cache {
    /// Opens the cache in `dir`, and makes it if it isn't there. Unused images are removed, the longest unused first, when all
    /// together are larger than `bytes_max`. Removes what killed processes left half done.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Cache, Error> {
        let failed = |action| move |source| Error::io(action, dir, source);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make"))?;
        let meta = dir.metadata().map_err(failed("look at"))?;
        let refused = |why| Error::Cache { path: dir.to_owned(), why };
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(refused("it belongs to somebody else"));
        }
        // Who could write here could put anything under any digest.
        if meta.mode() & 0o022 != 0 {
            return Err(refused("others than its owner may write to it"));
        }
        let within = |name: &str| entry::make_directory(&dir.join(name));
        let cache = Cache {
            dir: dir.to_owned(),
            entries: within("entries")?,
            locks: within("locks")?,
            tmp: within("tmp")?,
            bytes_max,
            limits: Limits::default(),
        };
        entry::check_format(&dir.join("format"), FORMAT)?;
        cache.sweep()?;
        Ok(cache)
    }

    /// Other limits for what is unpacked from now on.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The image of a manifest, of a config (from `docker save`), or of an index that it was once chosen from, if it is here.
    pub fn get(&self, digest: &Digest) -> Result<Option<Image>, Error> {
        if let Some(image) = self.shared(digest)? {
            return Ok(Some(image));
        }
        match Known::read(&self.dir).find(&known::index_key(digest)) {
            Some(of) => self.shared(&of),
            None => Ok(None),
        }
    }

    /// The image of a source, unpacked if it isn't here yet. If another process is at it, waits for that.
    ///
    /// A failed one leaves nothing behind.
    pub fn unpack(&self, source: Source<'_>) -> Result<Image, Error> {
        let file = match &source {
            Source::Path { path, name } => known::file_key(path, *name)?,
            Source::Blobs { .. } => None,
        };
        let known = match &source {
            Source::Path { .. } => file.as_ref().and_then(|key| Known::read(&self.dir).find(&key.text)),
            Source::Blobs { digest, .. } => *digest,
        };
        if let Some(digest) = known
            && let Some(image) = self.get(&digest)?
        {
            return Ok(image);
        }
        let mut opened = Opened::open(source, self.tmp.as_fd(), &self.limits)?;
        let plan = opened.plan(&self.limits)?;
        let image = self.ensure(&mut opened, &plan)?;
        let index = plan.index.map(|digest| known::index_key(&digest));
        let file = file.filter(|key| key.is_settled()).map(|key| key.text);
        Known::add(&self.dir, index.into_iter().chain(file), &image.digest)?;
        self.evict()?;
        Ok(image)
    }

    fn ensure(&self, source: &mut Opened<'_>, plan: &Plan) -> Result<Image, Error> {
        let hex = plan.digest.hex();
        for _ in 0..CACHE_TRIES_MAX {
            if let Some(image) = self.shared(&plan.digest)? {
                return Ok(image);
            }
            let lock = self.lock(&hex, FlockOperation::LockExclusive)?;
            // Whoever had the lock before us may have been making it.
            if let Some(lock) = lock
                && self.record(&plan.digest)?.is_none()
            {
                let made = self.make(source, plan, &hex);
                if made.is_err() {
                    // The error that led here says more than one of tidying up would.
                    let _ = self.remove_tmp(&hex);
                    lock.forget(&self.locks, &hex);
                }
                made?;
            }
            // Between the exclusive lock and the shared one somebody may remove the entry; so we look again.
        }
        Err(Error::Cache {
            path: self.dir.clone(),
            why: "the image is thrown away as soon as it is unpacked",
        })
    }

    /// With the entry's lock: unpacks into `tmp`, syncs, and renames. What is in `entries` is therefore whole, even after a
    /// power cut: nothing gets there before the disk has it.
    fn make(&self, source: &mut Opened<'_>, plan: &Plan, hex: &str) -> Result<(), Error> {
        let path = self.dir.join("tmp").join(hex);
        // One that is there and can't be read.
        self.discard(hex)?;
        let directory = entry::make_directory(&path)?;
        let unpacked = unpack::unpack(source, plan, &directory, &path, &self.limits)?;
        let record = Record {
            digest: plan.digest,
            config: plan.config.clone(),
            bytes: unpacked.bytes,
            left_out: unpacked.left_out,
        };
        entry::finish(&path, &directory, &record)?;
        let to = self.dir.join("entries").join(hex);
        renameat(&self.tmp, hex, &self.entries, hex)
            .map_err(|error| Error::io("rename the new image to", &to, error))?;
        rustix::fs::fsync(&self.entries).map_err(|error| Error::io("sync", &to, error))
    }

    /// The entry, if it is there, under a shared lock.
    fn shared(&self, digest: &Digest) -> Result<Option<Image>, Error> {
        let hex = digest.hex();
        if self.record(digest)?.is_none() {
            return Ok(None);
        }
        let Some(lock) = self.lock(&hex, FlockOperation::LockShared)? else { return Ok(None) };
        // Now nobody can remove it any more; before, somebody may have.
        let Some(record) = self.record(digest)? else { return Ok(None) };
        lock.touch()
            .map_err(|source| Error::io("note the use of", &self.dir.join("locks").join(&hex), source))?;
        let rootfs = self.dir.join("entries").join(&hex).join("rootfs");
        let Record { digest, config, bytes, left_out } = record;
        Ok(Some(Image { digest, rootfs, config, bytes, left_out, lock }))
    }

    fn record(&self, digest: &Digest) -> Result<Option<Record>, Error> {
        let path = self.dir.join("entries").join(digest.hex()).join("image.json");
        Ok(entry::read(&path)?.filter(|record: &Record| record.digest == *digest))
    }

    fn lock(&self, hex: &str, operation: FlockOperation) -> Result<Option<Lock>, Error> {
        lock(&self.locks, hex, operation)
            .map_err(|source| Error::io("lock", &self.dir.join("locks").join(hex), source))
    }

    /// Removes the longest unused images until the others fit. Those in use stay.
    fn evict(&self) -> Result<(), Error> {
        let listed =
            names(&self.entries).map_err(|source| Error::io("list", &self.dir.join("entries"), source))?;
        let mut images = Vec::new();
        for digest in listed.iter().filter_map(|name| Digest::from_hex(str::from_utf8(name).ok()?)) {
            let last_use = lock::last_use(&self.locks, &digest.hex());
            let bytes = self.record(&digest)?.map_or(0, |record| record.bytes);
            images.push((last_use, bytes, digest.hex()));
        }
        images.sort();
        let mut total = images.iter().fold(0_u64, |sum, (_, bytes, _)| sum.saturating_add(*bytes));
        for (_, bytes, hex) in images {
            if total <= self.bytes_max {
                break;
            }
            if let Some(lock) = self.lock(&hex, FlockOperation::NonBlockingLockExclusive)? {
                self.remove(&hex, lock)?;
                total = total.saturating_sub(bytes);
            }
        }
        Ok(())
    }

    fn remove(&self, hex: &str, lock: Lock) -> Result<(), Error> {
        self.discard(hex)?;
        lock.forget(&self.locks, hex);
        Ok(())
    }

    /// Out of sight first, in one step: there is never half an image in `entries`.
    fn discard(&self, hex: &str) -> Result<(), Error> {
        self.remove_tmp(hex)?;
        match renameat(&self.entries, hex, &self.tmp, hex) {
            Ok(()) => self.remove_tmp(hex),
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("remove", &self.dir.join("entries").join(hex), error)),
        }
    }

    /// Removes what killed processes left in `tmp`. What a living one works on is locked.
    fn sweep(&self) -> Result<(), Error> {
        let path = self.dir.join("tmp");
        for name in names(&self.tmp).map_err(|source| Error::io("list", &path, source))? {
            let digest = str::from_utf8(&name).ok().and_then(Digest::from_hex);
            let Some(hex) = digest.map(|digest| digest.hex()) else {
                // A spool that lost its owner before it lost its name.
                let _ = rustix::fs::unlinkat(&self.tmp, &*name, rustix::fs::AtFlags::empty());
                continue;
            };
            let Some(lock) = self.lock(&hex, FlockOperation::NonBlockingLockExclusive)? else { continue };
            self.remove_tmp(&hex)?;
            if !self.dir.join("entries").join(&hex).exists() {
                lock.forget(&self.locks, &hex);
            }
        }
        Ok(())
    }

    /// Removes `tmp/HEX`, whose lock we have.
    fn remove_tmp(&self, hex: &str) -> Result<(), Error> {
        let failed = |source| Error::io("remove", &self.dir.join("tmp").join(hex), source);
        entry::remove(&self.tmp, hex).map_err(failed)
    }
}
