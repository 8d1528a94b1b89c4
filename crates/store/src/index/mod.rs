//! The index: SQLite, and nothing in it that the segments don't say, but for the order in which it came to be known.

mod events;
mod keys;
mod lists;
mod readers;
mod rows;
mod schema;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use uuid::Uuid;

use crate::Error;
use crate::disk::Disk;
use crate::layout::Layout;
use crate::limits::INDEX_BUSY_MAX;
use crate::types::{Entry, Meta};

use events::Bell;
pub(crate) use events::boot_id;
use readers::{Reader, Readers};
use schema::{SCHEMA, migrate, version};

/// Pause between two tries to get SQLite's write lock. Its own schedule starts there and soon waits 100 ms.
const BUSY_PAUSE: Duration = Duration::from_micros(250);

/// Compiled statements that a connection keeps.
const STATEMENTS_KEPT: usize = 48;

/// Where pieces begin, and where the record that they belong to stands: chunks and their end, or a request and its accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: Uuid,
    pub(crate) start: u64,
    pub(crate) at: u64,
}

/// What one record does to the index.
#[derive(Debug)]
pub(crate) enum Change {
    /// `accept`: not an update. `request`: of an accept that lets it wait.
    Live {
        id: Uuid,
        time_ns: i64,
        meta: Meta,
        object: Vec<u8>,
        accept: bool,
        request: Option<Place>,
    },
    /// `whole`: all chunks are good.
    Ended {
        id: Uuid,
        time_ns: i64,
        meta: Meta,
        object: Vec<u8>,
        place: Place,
        whole: bool,
    },
    Removed {
        id: Uuid,
    },
}

/// How much of a segment is in the index, and whether it takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) segment: Uuid,
    pub(crate) indexed: u64,
    pub(crate) closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Unknown,
    /// Accepted, and nobody works on it yet.
    Waiting,
    /// Somebody works on it, or should.
    Live,
    Ended,
    Removed,
}

enum AtHand<'a> {
    Writer(MutexGuard<'a, Connection>),
    Reader(Reader<'a>),
}

impl Deref for AtHand<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match self {
            AtHand::Writer(connection) => connection,
            AtHand::Reader(connection) => connection,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    damaged: PathBuf,
    disk: Arc<dyn Disk>,
    /// All writes go through this one.
    connection: Mutex<Connection>,
    readers: Readers,
    bell: Bell,
}

impl Index {
    /// `random` and `boot`: for the feed of an index that is new.
    pub(crate) fn open(
        layout: &Layout,
        disk: Arc<dyn Disk>,
        random: [u8; 8],
        boot: &str,
    ) -> Result<Self, Error> {
        let path = layout.index.clone();
        // SQLite would make it readable for all; -wal and -shm take over this mode.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        let damaged = layout.index_damaged.clone();
        let connection = connect(&path).and_then(|mut connection| {
            if version(&connection)? < SCHEMA {
                migrate(&mut connection, events::new_feed(random), boot)?;
            }
            Ok(connection)
        });
        let connection = connection.map_err(|error| fail(&path, &damaged, "open", error))?;
        let found = version(&connection).map_err(|error| fail(&path, &damaged, "open", error))?;
        if found > SCHEMA {
            return Err(Error::NewerFormat { path: layout.dir.clone(), found, known: SCHEMA });
        }
        let readers = Readers::new(&path);
        Ok(Index { path, damaged, disk, connection: Mutex::new(connection), readers, bell: Bell::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // SQLite rolls back what a panic interrupted.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> Result<Reader<'_>, Error> {
        self.readers.get().map_err(self.failed("open"))
    }

    /// For a short look: the writer's own connection, if nobody is writing, because it has the newest pages at hand. A
    /// reader has to read them again after each transaction.
    fn reader_at_hand(&self) -> Result<AtHand<'_>, Error> {
        match self.connection.try_lock() {
            Ok(writer) => Ok(AtHand::Writer(writer)),
            Err(TryLockError::Poisoned(writer)) => Ok(AtHand::Writer(writer.into_inner())),
            Err(TryLockError::WouldBlock) => self.reader().map(AtHand::Reader),
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> Error + '_ {
        move |error| fail(&self.path, &self.damaged, action, error)
    }

    /// One transaction: these changes, and how far the segment they stand in is indexed. What the changes say must be durable.
    pub(crate) fn apply(&self, changes: &[Change], progress: Option<Progress>) -> Result<(), Error> {
        let failed = self.failed("write rows");
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        for change in changes {
            rows::apply(&transaction, change).map_err(&failed)?;
        }
        if !changes.is_empty() {
            // Each change adds at most one, so twice as many go down to the bound in the end.
            events::prune(&transaction, 2 * changes.len()).map_err(&failed)?;
            let keys = changes.iter().filter(|change| change.key().is_some()).count();
            keys::prune(&transaction, 2 * keys).map_err(&failed)?;
        }
        if let Some(progress) = progress {
            rows::put_progress(&transaction, &progress).map_err(&failed)?;
        }
        self.disk.index_commit().map_err(|error| Error::io("write", &self.path, error))?;
        transaction.commit().map_err(&failed)?;
        drop(connection);
        if !changes.is_empty() {
            self.bell.ring();
        }
        Ok(())
    }

    pub(crate) fn state(&self, id: Uuid) -> Result<State, Error> {
        self.state_since(id).map(|(state, _)| state)
    }

    /// And when it was last changed, if it has not ended: nanoseconds since 1970.
    pub(crate) fn state_since(&self, id: Uuid) -> Result<(State, i64), Error> {
        let failed = self.failed("look up an execution");
        let reader = self.reader_at_hand()?;
        let mut query = reader
            .prepare_cached(
                "SELECT CASE WHEN ended THEN 3 WHEN waiting THEN 1 ELSE 2 END, updated_ns
                     FROM executions WHERE id = ?1
                 UNION ALL SELECT 4, 0 FROM tombstones WHERE id = ?1 ORDER BY 1 DESC LIMIT 1",
            )
            .map_err(&failed)?;
        let found: Option<(i64, i64)> = query
            .query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(&failed)?;
        Ok(match found {
            None => (State::Unknown, 0),
            Some((1, since_ns)) => (State::Waiting, since_ns),
            Some((2, since_ns)) => (State::Live, since_ns),
            Some((3, _)) => (State::Ended, 0),
            Some(_) => (State::Removed, 0),
        })
    }

    pub(crate) fn get(&self, id: Uuid) -> Result<Option<(Entry, Option<Place>)>, Error> {
        let failed = self.failed("look up an execution");
        let reader = self.reader()?;
        let sql = format!("SELECT {} FROM executions JOIN objects USING (n) WHERE id = ?", rows::COLUMNS);
        let mut query = reader.prepare_cached(&sql).map_err(&failed)?;
        query.query_row([id.as_bytes()], rows::read_row).optional().map_err(&failed)
    }

    /// Where the request of an execution stands. `None`: it came without, or there is no such execution.
    pub(crate) fn request_place(&self, id: Uuid) -> Result<Option<Place>, Error> {
        let failed = self.failed("look up a request");
        let reader = self.reader()?;
        let mut query = reader
            .prepare_cached(
                "SELECT request_segment, request_start, request_end FROM executions
                 WHERE id = ? AND request_segment IS NOT NULL",
            )
            .map_err(&failed)?;
        query.query_row([id.as_bytes()], |row| rows::read_place(row, 0)).optional().map_err(&failed)
    }

    pub(crate) fn progress(&self, segment: Uuid) -> Result<Option<Progress>, Error> {
        let reader = self.reader()?;
        let failed = self.failed("look up a segment");
        let mut query = reader
            .prepare_cached("SELECT id, indexed, closed FROM segments WHERE id = ?")
            .map_err(&failed)?;
        query.query_row([segment.as_bytes()], rows::read_progress).optional().map_err(&failed)
    }

    pub(crate) fn all_progress(&self) -> Result<HashMap<Uuid, Progress>, Error> {
        let reader = self.reader()?;
        let failed = self.failed("list segments");
        let mut query = reader.prepare_cached("SELECT id, indexed, closed FROM segments").map_err(&failed)?;
        let rows = query.query_map([], rows::read_progress).map_err(&failed)?;
        rows.map(|row| row.map(|progress| (progress.segment, progress)).map_err(&failed)).collect()
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    prepare_connection(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    Ok(connection)
}

/// What all of them have in common.
fn prepare_connection(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(|tries| {
        std::thread::sleep(BUSY_PAUSE);
        BUSY_PAUSE * u32::try_from(tries).unwrap_or(0) < INDEX_BUSY_MAX
    }))?;
    // Else SQLite compiles a statement anew whenever it is bound to other values, in case they make another plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(())
}

fn fail(path: &Path, damaged: &Path, action: &'static str, source: rusqlite::Error) -> Error {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            // If this can't be written, the next one who meets the damage says the same.
            let _ = std::fs::write(damaged, b"");
            Error::IndexCorrupt { path, source }
        }
        Some(ErrorCode::DiskFull) => Error::StorageFull { path, source: None },
        // Its shared memory is a file, too, and SQLite doesn't say why that could not grow.
        Some(ErrorCode::SystemIoFailure) if disk_is_full(&path) => Error::StorageFull { path, source: None },
        _ => Error::Index { action, path, source },
    }
}

fn disk_is_full(path: &Path) -> bool {
    let directory = path.parent().unwrap_or(path);
    rustix::fs::statvfs(directory).is_ok_and(|stat| stat.f_bavail == 0)
}
