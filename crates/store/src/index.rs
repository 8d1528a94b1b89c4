//! The index: SQLite, and nothing in it that the segments don't say.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, ToSql, TransactionBehavior, params};
use uuid::Uuid;

use crate::Error;
use crate::disk::Disk;
use crate::layout::Layout;
use crate::limits::INDEX_BUSY_MAX;
use crate::types::{Entry, Filter, Meta};

/// `PRAGMA user_version`. Older ones are brought up step by step in [`migrate`].
const SCHEMA: u32 = 1;
const SCHEMA_1: &str = "
    CREATE TABLE executions (
        n INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        ended INTEGER NOT NULL,
        updated_ns INTEGER NOT NULL,
        status TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        meta TEXT NOT NULL,
        whole INTEGER,
        segment BLOB, start_at INTEGER, end_at INTEGER
    );
    CREATE INDEX not_ended ON executions (id) WHERE ended = 0;
    CREATE TABLE objects (n INTEGER PRIMARY KEY, object BLOB NOT NULL);
    CREATE TABLE tombstones (id BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE segments (id BLOB PRIMARY KEY, indexed INTEGER NOT NULL, closed INTEGER NOT NULL) WITHOUT ROWID;
";
/// Pause between two tries to get SQLite's write lock. Its own schedule starts there and soon waits 100 ms.
const BUSY_PAUSE: Duration = Duration::from_micros(250);
const COLUMNS: &str = "id, ended, meta, object, segment, start_at, end_at, whole";

/// Where an ended execution's chunks begin and its end entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: Uuid,
    pub(crate) start: u64,
    pub(crate) at: u64,
}

/// What one record does to the index.
#[derive(Debug)]
pub(crate) enum Change {
    Live {
        id: Uuid,
        time_ns: i64,
        meta: Meta,
        object: Vec<u8>,
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
    Live,
    Ended,
    Removed,
}

#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    damaged: PathBuf,
    disk: Arc<dyn Disk>,
    connection: Mutex<Connection>,
}

impl Index {
    pub(crate) fn open(layout: &Layout, disk: Arc<dyn Disk>) -> Result<Self, Error> {
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
                migrate(&mut connection)?;
            }
            Ok(connection)
        });
        let connection = connection.map_err(|error| fail(&path, &damaged, "open", error))?;
        let found = version(&connection).map_err(|error| fail(&path, &damaged, "open", error))?;
        if found > SCHEMA {
            return Err(Error::NewerFormat { path: layout.dir.clone(), found, known: SCHEMA });
        }
        Ok(Index { path, damaged, disk, connection: Mutex::new(connection) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // SQLite rolls back what a panic interrupted.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
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
            apply_one(&transaction, change).map_err(&failed)?;
        }
        if let Some(progress) = progress {
            put_progress(&transaction, &progress).map_err(&failed)?;
        }
        self.disk.index_commit().map_err(|error| Error::io("write", &self.path, error))?;
        transaction.commit().map_err(&failed)
    }

    pub(crate) fn state(&self, id: Uuid) -> Result<State, Error> {
        let connection = self.lock();
        let mut query = connection
            .prepare_cached(
                "SELECT CASE WHEN EXISTS (SELECT 1 FROM tombstones WHERE id = ?1) THEN 3
                 ELSE (SELECT 1 + ended FROM executions WHERE id = ?1) END",
            )
            .map_err(self.failed("look up an execution"))?;
        let found: Option<i64> = query
            .query_row([id.as_bytes()], |row| row.get(0))
            .map_err(self.failed("look up an execution"))?;
        Ok(match found {
            None => State::Unknown,
            Some(1) => State::Live,
            Some(2) => State::Ended,
            Some(_) => State::Removed,
        })
    }

    pub(crate) fn get(&self, id: Uuid) -> Result<Option<(Entry, Option<Place>)>, Error> {
        let connection = self.lock();
        let sql = format!("SELECT {COLUMNS} FROM executions JOIN objects USING (n) WHERE id = ?");
        let mut query = connection.prepare_cached(&sql).map_err(self.failed("look up an execution"))?;
        query.query_row([id.as_bytes()], read_row).optional().map_err(self.failed("look up an execution"))
    }

    pub(crate) fn list(&self, filter: &Filter) -> Result<Vec<Entry>, Error> {
        let failed = self.failed("list executions");
        let mut sql = format!("SELECT {COLUMNS} FROM executions JOIN objects USING (n) WHERE TRUE");
        let mut values: Vec<Box<dyn ToSql>> = Vec::new();
        if !filter.status.is_empty() {
            let marks = vec!["?"; filter.status.len()].join(",");
            sql.push_str(&format!(" AND status IN ({marks})"));
            filter.status.iter().for_each(|status| values.push(Box::new(status.clone())));
        }
        for (key, value) in &filter.labels {
            sql.push_str(
                " AND EXISTS (SELECT 1 FROM json_each(meta, '$.labels') AS label WHERE label.key = ? AND label.value = ?)",
            );
            values.push(Box::new(key.clone()));
            values.push(Box::new(value.clone()));
        }
        if let Some(since) = filter.since_ns {
            sql.push_str(" AND created_ns >= ?");
            values.push(Box::new(since));
        }
        if let Some(until) = filter.until_ns {
            sql.push_str(" AND created_ns < ?");
            values.push(Box::new(until));
        }
        if let Some(before) = filter.before {
            sql.push_str(" AND id < ?");
            values.push(Box::new(before.as_bytes().to_vec()));
        }
        sql.push_str(" ORDER BY id DESC LIMIT ?");
        let limit = if filter.limit == 0 { -1 } else { i64::try_from(filter.limit).unwrap_or(-1) };
        values.push(Box::new(limit));
        let connection = self.lock();
        let mut query = connection.prepare_cached(&sql).map_err(&failed)?;
        let values = rusqlite::params_from_iter(values.iter().map(|value| &**value));
        let rows = query.query_map(values, read_row).map_err(&failed)?;
        rows.map(|row| row.map(|(entry, _)| entry).map_err(&failed)).collect()
    }

    pub(crate) fn ids(&self) -> Result<Vec<Uuid>, Error> {
        self.id_query("SELECT id FROM executions ORDER BY id DESC", &[])
    }

    pub(crate) fn not_ended(&self) -> Result<Vec<Uuid>, Error> {
        self.id_query("SELECT id FROM executions WHERE ended = 0 ORDER BY id", &[])
    }

    pub(crate) fn tombstones(&self) -> Result<Vec<Uuid>, Error> {
        self.id_query("SELECT id FROM tombstones", &[])
    }

    pub(crate) fn ids_between(&self, low: Uuid, high: Uuid, max: usize) -> Result<Vec<Uuid>, Error> {
        let (low, high) = (low.as_bytes().to_vec(), high.as_bytes().to_vec());
        let sql = "SELECT id FROM executions WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?";
        self.id_query(sql, &[&low, &high, &(max as i64)])
    }

    fn id_query(&self, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<Uuid>, Error> {
        let failed = self.failed("list executions");
        let connection = self.lock();
        let mut query = connection.prepare_cached(sql).map_err(&failed)?;
        let rows = query.query_map(values, |row| uuid_at(row, 0)).map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)).collect()
    }

    pub(crate) fn progress(&self, segment: Uuid) -> Result<Option<Progress>, Error> {
        let connection = self.lock();
        let failed = self.failed("look up a segment");
        let mut query = connection
            .prepare_cached("SELECT id, indexed, closed FROM segments WHERE id = ?")
            .map_err(&failed)?;
        query.query_row([segment.as_bytes()], read_progress).optional().map_err(&failed)
    }

    pub(crate) fn all_progress(&self) -> Result<HashMap<Uuid, Progress>, Error> {
        let connection = self.lock();
        let failed = self.failed("list segments");
        let mut query =
            connection.prepare_cached("SELECT id, indexed, closed FROM segments").map_err(&failed)?;
        let rows = query.query_map([], read_progress).map_err(&failed)?;
        rows.map(|row| row.map(|progress| (progress.segment, progress)).map_err(&failed)).collect()
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_handler(Some(|tries| {
        std::thread::sleep(BUSY_PAUSE);
        BUSY_PAUSE * u32::try_from(tries).unwrap_or(0) < INDEX_BUSY_MAX
    }))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if version(&transaction)? == 0 {
        transaction.execute_batch(SCHEMA_1)?;
        transaction.pragma_update(None, "user_version", 1)?;
    }
    transaction.commit()
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

fn apply_one(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Live { id, time_ns, meta, object } => put(connection, *id, *time_ns, meta, object, None),
        Change::Ended { id, time_ns, meta, object, place, whole } => {
            put(connection, *id, *time_ns, meta, object, Some((*place, *whole)))
        }
        Change::Removed { id } => {
            let id = id.as_bytes();
            connection.prepare_cached("INSERT OR IGNORE INTO tombstones (id) VALUES (?)")?.execute([id])?;
            let mut delete = connection.prepare_cached("DELETE FROM executions WHERE id = ? RETURNING n")?;
            let n: Option<i64> = delete.query_row([id], |row| row.get(0)).optional()?;
            if let Some(n) = n {
                connection.prepare_cached("DELETE FROM objects WHERE n = ?")?.execute([n])?;
            }
            Ok(())
        }
    }
}

/// A tombstone wins over everything, an end over what is live, the later of two live states over the earlier. Of two
/// ends the first stays, except that a whole one replaces one with damaged chunks: that one was passed over
/// when it was found, and the execution was ended again from its spool.
fn put(
    connection: &Connection,
    id: Uuid,
    time_ns: i64,
    meta: &Meta,
    object: &[u8],
    end: Option<(Place, bool)>,
) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO executions (id, ended, updated_ns, status, created_ns, meta, whole, segment, start_at, end_at)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE id = ?1)
         ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, updated_ns = excluded.updated_ns, status = excluded.status,
             created_ns = excluded.created_ns, meta = excluded.meta, whole = excluded.whole,
             segment = excluded.segment, start_at = excluded.start_at, end_at = excluded.end_at
         WHERE (ended = 0 AND (excluded.ended = 1 OR excluded.updated_ns >= updated_ns))
             OR (whole = 0 AND excluded.whole = 1)
         RETURNING n",
    )?;
    let text = serde_json::to_string(meta).unwrap_or_default();
    let place = end.map(|(place, _)| place);
    let values = params![
        id.as_bytes(),
        place.is_some(),
        time_ns,
        meta.status,
        meta.created_ns,
        text,
        end.map(|(_, whole)| whole),
        place.map(|place| *place.segment.as_bytes()),
        place.map(|place| place.start as i64),
        place.map(|place| place.at as i64),
    ];
    let n: Option<i64> = upsert.query_row(values, |row| row.get(0)).optional()?;
    if let Some(n) = n {
        connection
            .prepare_cached("INSERT OR REPLACE INTO objects (n, object) VALUES (?, ?)")?
            .execute(params![n, object])?;
    }
    Ok(())
}

fn put_progress(connection: &Connection, progress: &Progress) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO segments (id, indexed, closed) VALUES (?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET indexed = max(indexed, excluded.indexed), closed = max(closed, excluded.closed)",
    )?;
    upsert.execute(params![progress.segment.as_bytes(), progress.indexed as i64, progress.closed])?;
    Ok(())
}

fn read_progress(row: &Row<'_>) -> rusqlite::Result<Progress> {
    Ok(Progress { segment: uuid_at(row, 0)?, indexed: number_at(row, 1)?, closed: row.get(2)? })
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<(Entry, Option<Place>)> {
    let ended: bool = row.get(1)?;
    let text: String = row.get(2)?;
    let mut meta: Meta = serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
    })?;
    let damaged = row.get::<_, Option<bool>>(7)? == Some(false);
    if damaged {
        meta.complete = meta.complete.and(Some(false));
    }
    let entry = Entry { id: uuid_at(row, 0)?, meta, ended, damaged, object: row.get(3)? };
    let place = match ended {
        true => Some(Place { segment: uuid_at(row, 4)?, start: number_at(row, 5)?, at: number_at(row, 6)? }),
        false => None,
    };
    Ok((entry, place))
}

fn uuid_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    Ok(Uuid::from_bytes(row.get::<_, [u8; 16]>(column)?))
}

fn number_at(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}
