//! How a run is spoken to, whoever started it: a FIFO beside its spool, whose other end its supervisor holds.
//!
//! `docs/spec/store.md`, Control and stdin.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::index::State;
use crate::layout::{self, Layout};
use crate::limits::CONTROL_PATIENCE;
use crate::types::Spool;
use crate::{Error, Store};

const SUFFIX: &str = ".control";
/// End the run.
const CANCEL: u8 = b'C';
/// Look at the stdin again.
const STDIN: u8 = b'S';

fn path_of(layout: &Layout, id: Uuid) -> PathBuf {
    layout.spools.join(format!("{id}{SUFFIX}"))
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| Error::io(action, path, error)
}

/// Gives a new spool its FIFO. The spool's lock is held, so nobody else makes or needs one of this name.
pub(crate) fn add(layout: &Layout, mut spool: Spool) -> Result<Spool, Error> {
    match make(&path_of(layout, spool.id)) {
        Ok(fifo) => {
            spool.control = Some(fifo);
            Ok(spool)
        }
        Err(error) => {
            let _ = std::fs::remove_file(&spool.path);
            Err(error)
        }
    }
}

fn make(path: &Path) -> Result<File, Error> {
    let mode = Mode::RUSR | Mode::WUSR;
    let mut made = rustix::fs::mkfifoat(rustix::fs::CWD, path, mode);
    if made == Err(Errno::EXIST) {
        // Of an earlier spool of this execution: whoever reads it is gone.
        std::fs::remove_file(path).map_err(failed("remove", path))?;
        made = rustix::fs::mkfifoat(rustix::fs::CWD, path, mode);
    }
    made.map_err(|errno| Error::io("make", path, errno.into()))?;
    // For both ways: so opening it waits for nobody, and it has no end when those who write to it go.
    open(path, OpenOptions::new().read(true).write(true)).map_err(failed("open", path))
}

/// Never waits, follows no link, and takes nothing but a FIFO.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a FIFO"))
    }
}

/// Says one byte to whoever listens. False: nobody does.
fn say(layout: &Layout, id: Uuid, word: u8) -> Result<bool, Error> {
    let path = path_of(layout, id);
    let fifo = match open(&path, OpenOptions::new().write(true)) {
        Ok(fifo) => fifo,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // No process has it open for reading.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => return Ok(false),
        Err(error) => return Err(Error::io("open", &path, error)),
    };
    let write = || rustix::io::write(&fifo, &[word]);
    let mut written = write();
    if written == Err(Errno::AGAIN) && word == CANCEL {
        // Whoever listens reads it empty, unless it is stopped.
        let patience = Timespec { tv_sec: CONTROL_PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&fifo, PollFlags::OUT)], Some(&patience));
        written = write();
    }
    match written {
        Ok(_) => Ok(true),
        // Full of others, each of which says as much.
        Err(Errno::AGAIN) if word == STDIN => Ok(true),
        // It went away meanwhile. SIGPIPE is ignored in every program of Rust.
        Err(Errno::PIPE) => Ok(false),
        Err(errno) => Err(Error::io("write to", &path, errno.into())),
    }
}

pub(crate) fn say_stdin(layout: &Layout, id: Uuid) -> Result<bool, Error> {
    say(layout, id, STDIN)
}

/// Before the spool itself: while that is there, somebody holds its lock.
pub(crate) fn remove(layout: &Layout, id: Uuid) -> Result<(), Error> {
    remove_file(&path_of(layout, id))
}

pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

impl Store {
    /// Executions that have something beside a spool, no spool, and no life before them.
    ///
    /// The files first, then the spools: a spool is made before what lies beside it. So one without is over, or it waits for
    /// its turn, and then the index knows it.
    pub(crate) fn strays(&self) -> Result<Vec<Uuid>, Error> {
        let layout = &self.shelf.layout;
        let mut ids = layout::ids_in(&layout.spools, SUFFIX)?;
        ids.extend(layout::ids_in(&layout.spools, crate::stdin::SUFFIX)?);
        ids.sort_unstable();
        ids.dedup();
        let mut strays = Vec::new();
        for id in ids {
            if !layout::exists(&layout.spool(id))? && self.is_over(id)? {
                strays.push(id);
            }
        }
        Ok(strays)
    }

    /// Of one that has no spool, or whose spool's lock we hold: nothing will read its stdin any more.
    fn is_over(&self, id: Uuid) -> Result<bool, Error> {
        let state = self.shelf.index.state(id)?;
        Ok(matches!(state, State::Ended | State::Removed | State::Unknown))
    }

    pub(crate) fn say_cancel(&self, id: Uuid) -> Result<bool, Error> {
        say(&self.shelf.layout, id, CANCEL)
    }

    /// What [`Store::strays`] found before the index was brought up.
    pub(crate) fn sweep_strays(&self, strays: &[Uuid]) -> Result<(), Error> {
        if strays.is_empty() {
            return Ok(());
        }
        let unindexed = self.shelf.unindexed()?;
        for &id in strays {
            if self.is_over(id)? && !unindexed.contains_key(&id) {
                remove(&self.shelf.layout, id)?;
                crate::stdin::remove(&self.shelf.layout, id)?;
            }
        }
        Ok(())
    }

    /// What lies beside a spool, before that goes. Its stdin stays for an execution that has not ended: it may wait for its
    /// turn again.
    pub(crate) fn remove_beside(&self, id: Uuid) -> Result<(), Error> {
        remove(&self.shelf.layout, id)?;
        if self.is_over(id)? { crate::stdin::remove(&self.shelf.layout, id) } else { Ok(()) }
    }
}
