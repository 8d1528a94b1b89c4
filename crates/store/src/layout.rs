//! Where things are in a data directory, and how it is made.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use uuid::Uuid;

use crate::Error;
use crate::disk;

pub(crate) const FORMAT: u32 = 2;
/// Readable, and made into [`FORMAT`] by the next open.
const FORMAT_OLDEST: u32 = 1;
const FORMAT_PREFIX: &str = "lastword store ";
/// How the names of packs end, by what becomes of them.
pub(crate) const KEPT_PACK: &str = ".pack";
pub(crate) const OPEN_PACK: &str = ".open";
pub(crate) const REMOVED_PACK: &str = ".removed";
pub(crate) const SECRET: &str = ".secret";
/// A format file is one short line; a longer file is something else.
const FORMAT_BYTES_MAX: u64 = 64;

/// How long we wait for other processes to close the store, where we have to be alone.
const EXCLUSIVE_WAIT_MAX: Duration = Duration::from_secs(2);
const EXCLUSIVE_PAUSE: Duration = Duration::from_millis(5);

/// Paths of one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) spools: PathBuf,
    pub(crate) segments: PathBuf,
    pub(crate) outputs: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) index_damaged: PathBuf,
    lock: PathBuf,
    setup: PathBuf,
    format: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Layout {
            dir: dir.to_path_buf(),
            spools: dir.join("spool"),
            segments: dir.join("segments"),
            outputs: dir.join("outputs"),
            index: dir.join("index.sqlite"),
            index_damaged: dir.join("index.damaged"),
            lock: dir.join("lock"),
            setup: dir.join("setup.lock"),
            format: dir.join("format"),
        }
    }

    pub(crate) fn spool(&self, id: Uuid) -> PathBuf {
        self.spools.join(format!("{id}.spool"))
    }

    pub(crate) fn secret(&self, id: Uuid) -> PathBuf {
        self.spools.join(format!("{id}{SECRET}"))
    }

    pub(crate) fn pack(&self, id: Uuid) -> PathBuf {
        self.outputs.join(format!("{id}{KEPT_PACK}"))
    }

    /// While it is filled, and until its execution ends.
    pub(crate) fn open_pack(&self, id: Uuid) -> PathBuf {
        self.outputs.join(format!("{id}{OPEN_PACK}"))
    }

    /// While its execution is removed.
    pub(crate) fn removed_pack(&self, id: Uuid) -> PathBuf {
        self.outputs.join(format!("{id}{REMOVED_PACK}"))
    }

    pub(crate) fn segment(&self, id: Uuid) -> PathBuf {
        self.segments.join(format!("{id}.seg"))
    }

    pub(crate) fn new_segment(&self, id: Uuid) -> PathBuf {
        self.segments.join(format!(".{id}.new"))
    }

    /// Makes what is missing, checks the format. Called by every open.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        if self.is_made() && self.check_format()? == FORMAT {
            return Ok(());
        }
        make_dir(&self.dir)?;
        let _setup = self.lock_setup()?;
        if !exists(&self.format)? {
            self.write_format()?;
        }
        if self.check_format()? != FORMAT {
            // An older build that has it open would take what we write for damage.
            let _alone =
                self.lock_exclusive()?.ok_or_else(|| Error::OlderInUse { path: self.dir.clone() })?;
            self.write_format()?;
        }
        make_dir(&self.spools)?;
        make_dir(&self.segments)?;
        make_dir(&self.outputs)?;
        for path in [&self.dir, &self.segments, &self.outputs] {
            let synced = File::open(path).and_then(|dir| dir.sync_all());
            synced.map_err(|error| Error::io("sync", path, error))?;
        }
        Ok(())
    }

    fn is_made(&self) -> bool {
        [&self.spools, &self.segments, &self.outputs].iter().all(|dir| dir.is_dir()) && self.format.is_file()
    }

    fn write_format(&self) -> Result<(), Error> {
        let new = self.dir.join("format.new");
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(format!("{FORMAT_PREFIX}{FORMAT}\n").as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &self.format)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| Error::io("write", &self.format, error))
    }

    fn check_format(&self) -> Result<u32, Error> {
        let mut text = String::new();
        File::open(&self.format)
            .and_then(|file| file.take(FORMAT_BYTES_MAX).read_to_string(&mut text))
            .map_err(|error| Error::io("read", &self.format, error))?;
        let found = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim_end().parse::<u32>().ok());
        match found {
            Some(found @ FORMAT_OLDEST..=FORMAT) => Ok(found),
            Some(found) => Err(Error::NewerFormat { path: self.dir.clone(), found, known: FORMAT }),
            None => Err(Error::Corrupt {
                path: self.format.clone(),
                what: format!(
                    "it does not say `{FORMAT_PREFIX}{FORMAT}`; is this a lastword data directory?"
                ),
            }),
        }
    }

    /// Held while the directory or the index is made. Waits.
    pub(crate) fn lock_setup(&self) -> Result<File, Error> {
        lock(&self.setup, FlockOperation::LockExclusive)
    }

    /// Held by every open store. Waits while someone deletes the index.
    pub(crate) fn lock_shared(&self) -> Result<File, Error> {
        lock(&self.lock, FlockOperation::LockShared)
    }

    /// Waits a moment for other processes to close the store. `None` if some don't.
    pub(crate) fn lock_exclusive(&self) -> Result<Option<File>, Error> {
        let since = Instant::now();
        loop {
            match self.try_lock_exclusive()? {
                None if since.elapsed() <= EXCLUSIVE_WAIT_MAX => std::thread::sleep(EXCLUSIVE_PAUSE),
                result => return Ok(result),
            }
        }
    }

    fn try_lock_exclusive(&self) -> Result<Option<File>, Error> {
        let file = open_lock(&self.lock)?;
        let locked = disk::try_flock(&file).map_err(|error| Error::io("lock", &self.lock, error))?;
        Ok(locked.then_some(file))
    }
}

fn open_lock(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io("open", path, error))
}

fn lock(path: &Path, operation: FlockOperation) -> Result<File, Error> {
    let file = open_lock(path)?;
    disk::flock(&file, operation).map_err(|error| Error::io("lock", path, error))?;
    Ok(file)
}

fn make_dir(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        // What is in the way of the last part, `mkdir -p` calls EEXIST.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::NotADirectory { path: path.to_path_buf() })
        }
        Err(error) => Err(Error::io("make", path, error)),
    }
}

pub(crate) fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(|error| Error::io("look for", path, error))
}

/// The ids of the files in `dir` that are named `ID` + `suffix`. Other names are not ours.
pub(crate) fn ids_in(dir: &Path, suffix: &str) -> Result<Vec<Uuid>, Error> {
    let mut ids: Vec<Uuid> =
        names_in(dir)?.iter().filter_map(|name| name.strip_suffix(suffix)?.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Temporary files that someone is making, or was making when it was killed.
pub(crate) fn unfinished_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_new = |name: &&String| name.starts_with('.') && name.ends_with(".new");
    Ok(names_in(dir)?.iter().filter(is_new).map(|name| dir.join(name)).collect())
}

fn names_in(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |error| Error::io("list", dir, error);
    let mut names = Vec::new();
    for item in std::fs::read_dir(dir).map_err(failed)? {
        if let Ok(name) = item.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// CLOCK_REALTIME in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}
