//! What a change does to the tables, and how a row is read.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::{Change, Place, Progress};
use crate::types::{Entry, Meta};

/// What [`read_row`] reads.
pub(super) const COLUMNS: &str = "id, ended, meta, object, segment, start_at, end_at, whole";

pub(super) fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Live { id, time_ns, meta, object, request, .. } => {
            let state = State { id: *id, time_ns: *time_ns, meta, object };
            put(connection, &state, *request, None)?;
        }
        Change::Ended { id, time_ns, meta, object, place, whole } => {
            let state = State { id: *id, time_ns: *time_ns, meta, object };
            put(connection, &state, None, Some((*place, *whole)))?;
        }
        Change::Removed { id } => {
            let id = id.as_bytes();
            connection.prepare_cached("INSERT OR IGNORE INTO tombstones (id) VALUES (?)")?.execute([id])?;
            let mut delete = connection.prepare_cached("DELETE FROM executions WHERE id = ? RETURNING n")?;
            let n: Option<i64> = delete.query_row([id], |row| row.get(0)).optional()?;
            if let Some(n) = n {
                connection.prepare_cached("DELETE FROM objects WHERE n = ?")?.execute([n])?;
            }
        }
    }
    match change.key() {
        Some(key) => key.file(connection),
        None => Ok(()),
    }
}

/// What an entry says of an execution.
struct State<'a> {
    id: Uuid,
    time_ns: i64,
    meta: &'a Meta,
    object: &'a [u8],
}

/// A tombstone wins over everything, an end over what is live, the later of two live states over the earlier. Of two
/// ends the first stays, except that a whole one replaces one with damaged chunks: that one was passed over
/// when it was found, and the execution was ended again from its spool.
///
/// A request belongs to its execution whatever the row says by then: entries come in any order.
fn put(
    connection: &Connection,
    state: &State<'_>,
    request: Option<Place>,
    end: Option<(Place, bool)>,
) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO executions (id, ended, updated_ns, status, created_ns, meta, whole, segment, start_at, end_at,
             waiting, tenant, batch, request_segment, request_start, request_end)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16
             WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE id = ?1)
         ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, updated_ns = excluded.updated_ns, status = excluded.status,
             created_ns = excluded.created_ns, meta = excluded.meta, whole = excluded.whole,
             segment = excluded.segment, start_at = excluded.start_at, end_at = excluded.end_at,
             waiting = excluded.waiting, tenant = excluded.tenant, batch = excluded.batch
         WHERE (ended = 0 AND (excluded.ended = 1 OR excluded.updated_ns >= updated_ns))
             OR (whole = 0 AND excluded.whole = 1)
         RETURNING n",
    )?;
    let (id, meta) = (state.id.as_bytes(), state.meta);
    let text = serde_json::to_string(meta).unwrap_or_default();
    let place = end.map(|(place, _)| place);
    let values = params![
        id,
        place.is_some(),
        state.time_ns,
        meta.status,
        meta.created_ns,
        text,
        end.map(|(_, whole)| whole),
        place.map(|place| *place.segment.as_bytes()),
        place.map(|place| place.start as i64),
        place.map(|place| place.at as i64),
        request.is_some(),
        meta.tenant,
        meta.batch.map(Uuid::into_bytes),
        request.map(|place| *place.segment.as_bytes()),
        request.map(|place| place.start as i64),
        request.map(|place| place.at as i64),
    ];
    let n: Option<i64> = upsert.query_row(values, |row| row.get(0)).optional()?;
    if let Some(n) = n {
        connection
            .prepare_cached("INSERT OR REPLACE INTO objects (n, object) VALUES (?, ?)")?
            .execute(params![n, state.object])?;
    }
    if let Some(place) = request {
        connection
            .prepare_cached(
                "UPDATE executions SET request_segment = ?, request_start = ?, request_end = ?
                 WHERE id = ? AND request_segment IS NULL",
            )?
            .execute(params![place.segment.as_bytes(), place.start as i64, place.at as i64, id])?;
    }
    Ok(())
}

pub(super) fn put_progress(connection: &Connection, progress: &Progress) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO segments (id, indexed, closed) VALUES (?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET indexed = max(indexed, excluded.indexed), closed = max(closed, excluded.closed)",
    )?;
    upsert.execute(params![progress.segment.as_bytes(), progress.indexed as i64, progress.closed])?;
    Ok(())
}

pub(super) fn read_progress(row: &Row<'_>) -> rusqlite::Result<Progress> {
    Ok(Progress { segment: uuid_at(row, 0)?, indexed: number_at(row, 1)?, closed: row.get(2)? })
}

pub(super) fn read_row(row: &Row<'_>) -> rusqlite::Result<(Entry, Option<Place>)> {
    let ended: bool = row.get(1)?;
    let text: String = row.get(2)?;
    let (meta, damaged) = parse_meta(2, &text, row.get(7)?)?;
    let entry = Entry { id: uuid_at(row, 0)?, meta, ended, damaged, object: row.get(3)? };
    let place = match ended {
        true => Some(read_place(row, 4)?),
        false => None,
    };
    Ok((entry, place))
}

/// Meta, and whether its transcript was found damaged.
pub(super) fn parse_meta(column: usize, text: &str, whole: Option<bool>) -> rusqlite::Result<(Meta, bool)> {
    let mut meta: Meta = serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })?;
    let damaged = whole == Some(false);
    if damaged {
        meta.complete = meta.complete.and(Some(false));
    }
    Ok((meta, damaged))
}

pub(super) fn read_place(row: &Row<'_>, column: usize) -> rusqlite::Result<Place> {
    Ok(Place {
        segment: uuid_at(row, column)?,
        start: number_at(row, column + 1)?,
        at: number_at(row, column + 2)?,
    })
}

pub(super) fn uuid_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    Ok(Uuid::from_bytes(row.get::<_, [u8; 16]>(column)?))
}

pub(super) fn number_at(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}
