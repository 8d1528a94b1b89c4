//! Idempotency keys.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::rows::uuid_at;
use super::{Change, Index};
use crate::Error;
use crate::layout::now_ns;
use crate::limits::KEY_LIFE;
use crate::types::{KeyUse, Meta, RequestKey};

const KEY_LIFE_NS: i64 = KEY_LIFE.as_nanos() as i64;

/// A key that an accept brings.
pub(super) struct Brought<'a> {
    id: Uuid,
    meta: &'a Meta,
    key: &'a RequestKey,
}

impl Change {
    pub(super) fn key(&self) -> Option<Brought<'_>> {
        match self {
            Change::Live { id, meta, accept: true, .. } => {
                meta.key.as_ref().map(|key| Brought { id: *id, meta, key })
            }
            _ => None,
        }
    }
}

impl Brought<'_> {
    /// Of two within the life of a key the earlier stays, in whatever order they are found in the segments.
    pub(super) fn file(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut upsert = connection.prepare_cached(
            "INSERT INTO keys (tenant, name, id, digest, created_ns) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (tenant, name) DO UPDATE SET id = excluded.id, digest = excluded.digest,
                 created_ns = excluded.created_ns
             WHERE excluded.created_ns - created_ns > ?6
                 OR (excluded.created_ns < created_ns AND created_ns - excluded.created_ns <= ?6)",
        )?;
        let values = params![
            self.meta.tenant.as_deref().unwrap_or_default(),
            self.key.name,
            self.id.as_bytes(),
            self.key.digest,
            self.meta.created_ns,
            KEY_LIFE_NS
        ];
        upsert.execute(values)?;
        Ok(())
    }
}

impl Index {
    pub(crate) fn by_key(
        &self,
        tenant: Option<&str>,
        name: &str,
        since_ns: i64,
    ) -> Result<Option<KeyUse>, Error> {
        let failed = self.failed("look up an idempotency key");
        let reader = self.reader()?;
        let mut query = reader
            .prepare_cached(
                "SELECT id, digest, created_ns, EXISTS (SELECT 1 FROM tombstones WHERE tombstones.id = keys.id)
                 FROM keys WHERE tenant = ? AND name = ? AND created_ns >= ?",
            )
            .map_err(&failed)?;
        let values = params![tenant.unwrap_or_default(), name, since_ns];
        let found = query.query_row(values, |row| {
            Ok(KeyUse {
                id: uuid_at(row, 0)?,
                digest: row.get(1)?,
                created_ns: row.get(2)?,
                removed: row.get(3)?,
            })
        });
        found.optional().map_err(&failed)
    }
}

/// Deletes the oldest of those that hold no more, at most `max`.
pub(super) fn prune(connection: &Connection, max: usize) -> rusqlite::Result<()> {
    if max == 0 {
        return Ok(());
    }
    let mut delete = connection.prepare_cached(
        "DELETE FROM keys WHERE (tenant, name) IN
            (SELECT tenant, name FROM keys WHERE created_ns < ? ORDER BY created_ns LIMIT ?)",
    )?;
    delete.execute(params![now_ns() - KEY_LIFE_NS, i64::try_from(max).unwrap_or(i64::MAX)])?;
    Ok(())
}
