//! Looking up many executions at a time.

use rusqlite::ToSql;
use uuid::Uuid;

use super::Index;
use super::rows::{COLUMNS, parse_meta, read_row, uuid_at};
use crate::Error;
use crate::types::{Entry, Filter, Meta};

/// The conditions of a filter but for the status, as SQL and its values.
#[derive(Default)]
struct Conditions {
    sql: String,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn add(&mut self, sql: &str, values: Vec<Box<dyn ToSql>>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    fn of(filter: &Filter) -> Self {
        let mut all = Conditions::default();
        if let Some(batch) = filter.batch {
            all.add("batch = ?", vec![Box::new(batch.into_bytes())]);
        }
        if let Some(tenant) = &filter.tenant {
            // A batch is small: the index of tenants, though it has the order, would be the longer way.
            let sql = if filter.batch.is_some() { "+tenant = ?" } else { "tenant = ?" };
            all.add(sql, vec![Box::new(tenant.clone())]);
        }
        for (key, value) in &filter.labels {
            all.add(
                "EXISTS (SELECT 1 FROM json_each(meta, '$.labels') AS label WHERE label.key = ? AND label.value = ?)",
                vec![Box::new(key.clone()), Box::new(value.clone())],
            );
        }
        if let Some(key) = &filter.without_label {
            all.add(
                "NOT EXISTS (SELECT 1 FROM json_each(meta, '$.labels') AS label WHERE label.key = ?)",
                vec![Box::new(key.clone())],
            );
        }
        if let Some(since) = filter.since_ns {
            all.add("created_ns >= ?", vec![Box::new(since)]);
        }
        if let Some(until) = filter.until_ns {
            all.add("created_ns < ?", vec![Box::new(until)]);
        }
        if let Some(before) = filter.before {
            all.add("id < ?", vec![Box::new(before.into_bytes())]);
        }
        all
    }
}

impl Index {
    pub(crate) fn list(&self, filter: &Filter) -> Result<Vec<Entry>, Error> {
        let failed = self.failed("list executions");
        let limit = if filter.limit == 0 { -1 } else { i64::try_from(filter.limit).unwrap_or(-1) };
        let (sql, values) = match &filter.status[..] {
            [] => select(Conditions::of(filter), limit),
            // It is small, and has its own index.
            several if filter.batch.is_some() => {
                let mut conditions = Conditions::of(filter);
                conditions.add(&format!("status IN ({})", vec!["?"; several.len()].join(",")), Vec::new());
                several.iter().for_each(|status| conditions.values.push(Box::new(status.clone())));
                select(conditions, limit)
            }
            several => select_any(filter, several, limit),
        };
        let reader = self.reader()?;
        let mut query = reader.prepare_cached(&sql).map_err(&failed)?;
        let values = rusqlite::params_from_iter(values.iter().map(|value| &**value));
        let rows = query.query_map(values, read_row).map_err(&failed)?;
        rows.map(|row| row.map(|(entry, _)| entry).map_err(&failed)).collect()
    }

    pub(crate) fn waiting(&self) -> Result<Vec<(Uuid, Meta)>, Error> {
        let failed = self.failed("list executions");
        let reader = self.reader()?;
        let mut query = reader
            .prepare_cached("SELECT id, meta FROM executions WHERE ended = 0 AND waiting = 1 ORDER BY id")
            .map_err(&failed)?;
        let rows = query.query_map([], |row| {
            let text: String = row.get(1)?;
            Ok((uuid_at(row, 0)?, parse_meta(1, &text, None)?.0))
        });
        rows.map_err(&failed)?.map(|row| row.map_err(&failed)).collect()
    }

    pub(crate) fn batch_counts(&self, batch: Uuid) -> Result<Vec<(String, u64)>, Error> {
        let failed = self.failed("count executions");
        let reader = self.reader()?;
        let mut query = reader
            .prepare_cached("SELECT status, count(*) FROM executions WHERE batch = ? GROUP BY status")
            .map_err(&failed)?;
        let rows =
            query.query_map([batch.as_bytes()], |row| Ok((row.get(0)?, super::rows::number_at(row, 1)?)));
        rows.map_err(&failed)?.map(|row| row.map_err(&failed)).collect()
    }

    pub(crate) fn ids(&self) -> Result<Vec<Uuid>, Error> {
        self.id_query("SELECT id FROM executions ORDER BY id DESC", &[])
    }

    /// And that don't wait.
    pub(crate) fn not_ended(&self) -> Result<Vec<Uuid>, Error> {
        self.id_query("SELECT id FROM executions WHERE ended = 0 AND waiting = 0 ORDER BY id", &[])
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
        let reader = self.reader()?;
        let mut query = reader.prepare_cached(sql).map_err(&failed)?;
        let rows = query.query_map(values, |row| uuid_at(row, 0)).map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)).collect()
    }
}

fn select(conditions: Conditions, limit: i64) -> (String, Vec<Box<dyn ToSql>>) {
    let Conditions { sql, mut values } = conditions;
    values.push(Box::new(limit));
    let sql = format!(
        "SELECT {COLUMNS} FROM executions JOIN objects USING (n) WHERE TRUE{sql} ORDER BY id DESC LIMIT ?"
    );
    (sql, values)
}

/// In the index each status of each state is in order; all together are not. So the newest of each, and of those the newest.
fn select_any(filter: &Filter, several: &[String], limit: i64) -> (String, Vec<Box<dyn ToSql>>) {
    let mut parts = Vec::new();
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    for status in several {
        for (ended, waiting) in [(0, 0), (0, 1), (1, 0)] {
            let conditions = Conditions::of(filter);
            parts.push(format!(
                "SELECT n FROM (SELECT n FROM executions WHERE ended = {ended} AND waiting = {waiting}
                     AND status = ?{} ORDER BY id DESC LIMIT ?)",
                conditions.sql
            ));
            values.push(Box::new(status.clone()));
            values.extend(conditions.values);
            values.push(Box::new(limit));
        }
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM executions JOIN objects USING (n) WHERE n IN ({}) ORDER BY id DESC LIMIT ?",
        parts.join(" UNION ALL ")
    );
    values.push(Box::new(limit));
    (sql, values)
}
