//! Connections to read the index with, so that a long list doesn't hold up a commit, nor one reader another.
//!
//! The index is in WAL mode: a read sees all that was committed when it began, and never waits for a writer.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};

use super::prepare_connection;
use crate::limits::INDEX_READERS_MAX;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    shelf: Mutex<Shelf>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Shelf {
    idle: Vec<Connection>,
    /// Idle or lent.
    made: usize,
}

/// Goes back when it is dropped.
pub(super) struct Reader<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Readers { path: path.to_path_buf(), shelf: Mutex::default(), returned: Condvar::new() }
    }

    /// One that nobody uses; a new one if there is none; waits if there are enough.
    pub(super) fn get(&self) -> rusqlite::Result<Reader<'_>> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = shelf.idle.pop() {
                return Ok(Reader { readers: self, connection: Some(connection) });
            }
            if shelf.made < INDEX_READERS_MAX {
                shelf.made += 1;
                break;
            }
            shelf = self.returned.wait(shelf).unwrap_or_else(PoisonError::into_inner);
        }
        drop(shelf);
        // Counts as made until it is dropped, also when opening it fails.
        let mut reader = Reader { readers: self, connection: None };
        reader.connection = Some(open(&self.path)?);
        Ok(reader)
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    // Not read-only: the first one after a crash has to bring the shared memory of the WAL up. It must not make a file, though.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    prepare_connection(&mut connection)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

impl Deref for Reader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("it is taken out only when this is dropped"),
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut shelf = self.readers.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        match self.connection.take() {
            Some(connection) => shelf.idle.push(connection),
            None => shelf.made -= 1,
        }
        drop(shelf);
        self.readers.returned.notify_one();
    }
}
