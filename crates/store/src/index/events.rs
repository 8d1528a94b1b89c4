//! The feed: what the triggers have written down, and where in it a reader is.

use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::Index;
use super::rows::{number_at, parse_meta, uuid_at};
use crate::Error;
use crate::limits::{EVENTS_KEPT_MAX, EVENTS_LOOK};
use crate::types::{Cursor, Event, EventChange};

/// Numbers of feeds stay below this, so that they survive readers of JSON that know only floating point numbers.
const FEED_LIMIT: u64 = 1 << 53;

/// Counts this process's index transactions, for those who wait for one.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    fn heard(&self) -> u64 {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when it has rung since `heard`, or when the time is over.
    fn wait(&self, heard: u64, patience: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(rung, patience, |rung| *rung == heard));
    }
}

/// A number for a new feed.
pub(super) fn new_feed(random: [u8; 8]) -> u64 {
    (u64::from_le_bytes(random) % FEED_LIMIT).max(1)
}

/// What changes whenever the machine was started. Empty if that can't be known.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// The feed, its oldest event and its newest, in one look.
struct Ends {
    feed: u64,
    oldest: u64,
    newest: u64,
}

impl Ends {
    fn of(connection: &Connection) -> rusqlite::Result<Ends> {
        let mut query = connection.prepare_cached(
            "SELECT id, (SELECT min(seq) FROM events), (SELECT max(seq) FROM events) FROM feed",
        )?;
        query.query_row([], |row| {
            let seq = |column| row.get::<_, Option<i64>>(column).map(|seq| seq.unwrap_or(0) as u64);
            Ok(Ends { feed: number_at(row, 0)?, oldest: seq(1)?, newest: seq(2)? })
        })
    }

    fn newest(&self) -> Cursor {
        Cursor { feed: self.feed, seq: self.newest }
    }

    /// Behind which number to go on.
    fn place(&self, after: Option<Cursor>) -> Result<u64, Error> {
        let before_oldest = self.oldest.saturating_sub(1);
        match after {
            None => Ok(before_oldest),
            Some(at) if at.feed == self.feed && (before_oldest..=self.newest).contains(&at.seq) => Ok(at.seq),
            Some(at) => Err(Error::CursorGone { seq: at.seq }),
        }
    }
}

impl Index {
    pub(crate) fn events(&self, after: Option<Cursor>, max: usize) -> Result<Vec<Event>, Error> {
        let failed = self.failed("read events");
        let reader = self.reader()?;
        // Both looks at one state, so that nothing is pruned between them.
        let transaction = reader.unchecked_transaction().map_err(&failed)?;
        let ends = Ends::of(&transaction).map_err(&failed)?;
        let place = ends.place(after)?;
        let mut query = transaction
            .prepare_cached(
                "SELECT events.seq, events.id, events.time_ns, events.status, events.ended, events.removed,
                    events.tenant, executions.meta, executions.whole
                 FROM events LEFT JOIN executions ON executions.id = events.id
                 WHERE events.seq > ? ORDER BY events.seq LIMIT ?",
            )
            .map_err(&failed)?;
        let values = params![place as i64, i64::try_from(max).unwrap_or(i64::MAX)];
        let rows = query.query_map(values, |row| read_event(row, ends.feed)).map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)).collect()
    }

    pub(crate) fn newest_event(&self) -> Result<Cursor, Error> {
        let reader = self.reader()?;
        Ends::of(&reader).map(|ends| ends.newest()).map_err(self.failed("read events"))
    }

    pub(crate) fn wait_for_event(&self, seen: Cursor, patience: Duration) -> Result<Cursor, Error> {
        let since = Instant::now();
        loop {
            // Before the look, so that nothing that comes behind it goes unheard.
            let heard = self.bell.heard();
            let newest = self.newest_event()?;
            let left = patience.saturating_sub(since.elapsed());
            if newest != seen || left.is_zero() {
                return Ok(newest);
            }
            self.bell.wait(heard, left.min(EVENTS_LOOK));
        }
    }

    /// The boot id under which the index was last brought up.
    pub(crate) fn noted_boot(&self) -> Result<String, Error> {
        let reader = self.reader()?;
        reader
            .query_row("SELECT boot FROM feed", [], |row| row.get(0))
            .optional()
            .map(Option::unwrap_or_default)
            .map_err(self.failed("read the feed"))
    }

    /// Notes that the index is up to date under this boot id. `anew`: as a new feed, unless another process has made one.
    pub(crate) fn note_boot(&self, boot: &str, anew: Option<[u8; 8]>) -> Result<(), Error> {
        let failed = self.failed("write the feed");
        let mut connection = self.lock();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        let noted: String =
            transaction.query_row("SELECT boot FROM feed", [], |row| row.get(0)).map_err(&failed)?;
        if noted == boot && !boot.is_empty() {
            return Ok(());
        }
        if let Some(random) = anew {
            transaction.execute("UPDATE feed SET id = ?", [new_feed(random) as i64]).map_err(&failed)?;
        }
        transaction.execute("UPDATE feed SET boot = ?", [boot]).map_err(&failed)?;
        transaction.commit().map_err(&failed)
    }
}

/// Deletes the oldest events of those that are too many, at most `max`. Never the newest.
pub(super) fn prune(connection: &Connection, max: usize) -> rusqlite::Result<()> {
    let mut ends = connection.prepare_cached(
        "SELECT coalesce((SELECT min(seq) FROM events), 0), coalesce((SELECT max(seq) FROM events), 0)",
    )?;
    let (oldest, newest): (i64, i64) = ends.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let last = newest - EVENTS_KEPT_MAX as i64;
    if oldest <= last {
        let mut delete = connection.prepare_cached(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq <= ? ORDER BY seq LIMIT ?)",
        )?;
        delete.execute(params![last, i64::try_from(max).unwrap_or(i64::MAX)])?;
    }
    Ok(())
}

fn read_event(row: &Row<'_>, feed: u64) -> rusqlite::Result<Event> {
    let change = match row.get(5)? {
        true => EventChange::Removed,
        false => EventChange::Status { status: row.get(3)?, ended: row.get(4)? },
    };
    let meta = match row.get::<_, Option<String>>(7)? {
        Some(text) => Some(parse_meta(7, &text, row.get(8)?)?.0),
        None => None,
    };
    Ok(Event {
        cursor: Cursor { feed, seq: number_at(row, 0)? },
        id: uuid_at(row, 1)?,
        time_ns: row.get(2)?,
        change,
        meta,
        tenant: row.get(6)?,
    })
}
