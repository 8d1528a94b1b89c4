//! The secret parts of requests: a file each, as long as the execution waits. `docs/spec/store.md`, Secrets.

use std::io::{self, Read};
use std::path::PathBuf;

use uuid::Uuid;

use crate::disk::{self, DiskFile};
use crate::index::State;
use crate::layout;
use crate::limits::SECRET_BYTES_MAX;
use crate::spool;
use crate::types::Waiting;
use crate::{Error, Store};

/// How often a new file is tried again when someone sweeps it away before it is locked.
const CREATE_TRIES_MAX: usize = 4;

/// A secret's file, locked: as long as this is there, nobody sweeps it.
#[derive(Debug)]
pub(crate) struct SecretLock {
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl Store {
    /// Makes the secrets of those that have one durable. One result for each.
    pub(crate) fn write_secrets(&self, items: &[&Waiting<'_>]) -> Vec<Result<Option<SecretLock>, Error>> {
        let mut results: Vec<_> = items
            .iter()
            .map(|item| item.secret.map(|secret| self.write_secret(item.id, secret)).transpose())
            .collect();
        if !results.iter().any(|result| matches!(result, Ok(Some(_)))) {
            return results;
        }
        let spools = &self.shelf.layout.spools;
        if let Err(error) = self.shelf.disk.sync_dir(spools) {
            for result in &mut results {
                if let Ok(Some(lock)) = result {
                    self.take_back(lock);
                    *result = Err(Error::io("sync", spools, io::Error::new(error.kind(), error.to_string())));
                }
            }
        }
        results
    }

    fn write_secret(&self, id: Uuid, secret: &[u8]) -> Result<SecretLock, Error> {
        let path = self.shelf.layout.secret(id);
        let failed = |error: io::Error| match error.kind() {
            // Left by an acceptor that died, or one of the same id is at work.
            io::ErrorKind::AlreadyExists => Error::Exists { id },
            _ => Error::io("write", &path, error),
        };
        for _ in 0..CREATE_TRIES_MAX {
            let file = self.shelf.disk.create(&path).map_err(failed)?;
            let ours = file.try_lock().map_err(failed)?
                && disk::leads_to(&path, file.identity().map_err(failed)?).map_err(failed)?;
            if !ours {
                continue;
            }
            let lock = SecretLock { path: path.clone(), file };
            let written = lock.file.write_all_at(secret, 0).and_then(|()| lock.file.sync());
            if let Err(error) = written {
                self.take_back(&lock);
                return Err(failed(error));
            }
            return Ok(lock);
        }
        Err(failed(io::Error::other("someone removes it each time")))
    }

    /// If this doesn't work, it is swept later.
    pub(crate) fn take_back(&self, secret: &SecretLock) {
        let _ = self.shelf.disk.remove(&secret.path);
    }

    pub(crate) fn read_secret(&self, id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        if self.shelf.index.state(id)? != State::Waiting {
            return Ok(None);
        }
        let path = self.shelf.layout.secret(id);
        let failed = |error| Error::io("read", &path, error);
        let Some(file) = spool::open_nofollow(&path)? else { return Ok(None) };
        let mut secret = Vec::new();
        file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut secret).map_err(failed)?;
        if secret.len() > SECRET_BYTES_MAX {
            return Err(Error::Corrupt { path, what: "it is longer than any secret".into() });
        }
        Ok(Some(secret))
    }

    pub(crate) fn remove_secret(&self, id: Uuid) -> Result<(), Error> {
        self.unlink(&self.shelf.layout.secret(id))
    }

    /// Of those that nobody is just writing; with their locks.
    pub(crate) fn secrets(&self) -> Result<Vec<(Uuid, std::fs::File)>, Error> {
        let mut free = Vec::new();
        for id in layout::ids_in(&self.shelf.layout.spools, layout::SECRET)? {
            let path = self.shelf.layout.secret(id);
            // What can't be opened isn't ours, and is nothing that we could have left.
            let Ok(Some(file)) = spool::open_nofollow(&path) else { continue };
            let ours = disk::try_flock(&file)
                .and_then(|locked| Ok(locked && disk::leads_to(&path, disk::identity(&file)?)?))
                .map_err(|error| Error::io("lock", &path, error))?;
            if ours {
                free.push((id, file));
            }
        }
        Ok(free)
    }

    /// Removes those that nobody needs. Their locks were taken before `unindexed` was looked for, so nobody is accepting them.
    pub(crate) fn sweep_secrets(
        &self,
        secrets: Vec<(Uuid, std::fs::File)>,
        unindexed: impl Fn(Uuid) -> bool,
    ) -> Result<(), Error> {
        for (id, _lock) in secrets {
            match self.shelf.index.state(id)? {
                State::Waiting => {}
                State::Unknown if unindexed(id) => {}
                State::Unknown | State::Live | State::Ended | State::Removed => self.remove_secret(id)?,
            }
        }
        Ok(())
    }
}
