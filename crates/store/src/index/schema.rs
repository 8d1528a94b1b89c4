//! The tables of the index, and how an older index becomes a present one.

use rusqlite::{Connection, TransactionBehavior, params};

use crate::limits::EVENTS_KEPT_MAX;

/// `PRAGMA user_version`. Older ones are brought up step by step in [`migrate`].
pub(super) const SCHEMA: u32 = 2;
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
/// Every index costs a page of each transaction. So one serves both those who want all that wait, or all that has not ended,
/// and those who want a status: these ask for each of the three states in turn.
///
/// The newest event is never deleted (see [`super::events`]), so its number plus one was never used.
///
/// SQLite's clock has milliseconds: an event must not seem older than the entry that it tells of.
const SCHEMA_2: &str = "
    ALTER TABLE executions ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE executions ADD COLUMN tenant TEXT;
    ALTER TABLE executions ADD COLUMN batch BLOB;
    ALTER TABLE executions ADD COLUMN request_segment BLOB;
    ALTER TABLE executions ADD COLUMN request_start INTEGER;
    ALTER TABLE executions ADD COLUMN request_end INTEGER;
    CREATE INDEX by_tenant ON executions (tenant, id) WHERE tenant IS NOT NULL;
    CREATE INDEX by_batch ON executions (batch, status) WHERE batch IS NOT NULL;
    DROP INDEX not_ended;
    CREATE INDEX by_state ON executions (ended, waiting, status, id);
    CREATE TABLE keys (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        id BLOB NOT NULL,
        digest TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        PRIMARY KEY (tenant, name)
    ) WITHOUT ROWID;
    CREATE INDEX keys_by_age ON keys (created_ns);
    CREATE TABLE feed (id INTEGER NOT NULL, boot TEXT NOT NULL);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        time_ns INTEGER NOT NULL,
        status TEXT,
        ended INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        tenant TEXT
    );
    CREATE TRIGGER appeared AFTER INSERT ON executions BEGIN
        INSERT INTO events (id, time_ns, status, ended, removed, tenant)
        VALUES (new.id, max(new.updated_ns, CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000),
            new.status, new.ended, 0, new.tenant);
    END;
    CREATE TRIGGER changed AFTER UPDATE OF status, ended ON executions
    WHEN old.status IS NOT new.status OR old.ended IS NOT new.ended BEGIN
        INSERT INTO events (id, time_ns, status, ended, removed, tenant)
        VALUES (new.id, max(new.updated_ns, CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000),
            new.status, new.ended, 0, new.tenant);
    END;
    CREATE TRIGGER disappeared AFTER DELETE ON executions BEGIN
        INSERT INTO events (id, time_ns, status, ended, removed, tenant)
        VALUES (old.id, max(old.updated_ns, CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000),
            NULL, 1, 1, old.tenant);
    END;
";

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// `feed` and `boot` are for an index that has none yet.
pub(super) fn migrate(connection: &mut Connection, feed: u64, boot: &str) -> rusqlite::Result<()> {
    // Every event but the newest may go, and an event's number is the newest one's plus one.
    const { assert!(EVENTS_KEPT_MAX > 0) };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let found = version(&transaction)?;
    if found < 1 {
        transaction.execute_batch(SCHEMA_1)?;
    }
    if found < 2 {
        transaction.execute_batch(SCHEMA_2)?;
        transaction.execute("INSERT INTO feed (id, boot) VALUES (?, ?)", params![feed as i64, boot])?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    transaction.commit()
}
