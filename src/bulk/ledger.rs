//! What has been copied, written on the target in the transactions that copy it.
//!
//! Hazard: a note that is not in the same transaction as the rows is wrong after a crash between the two
//! (P85). The statements here are therefore text, to be run on the connection that loads.

use std::collections::BTreeMap;

use super::partition::BlockRange;
use crate::error::{Error, Result};
use crate::pg::{Lsn, QualifiedName, quote_literal};
use crate::wire::Session;

/// The ledger's tables.
pub const DDL: &str = "
CREATE TABLE IF NOT EXISTS pgstream.copied_table (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'copying', 'copied')),
    watermark pg_lsn,
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    source_bytes bigint NOT NULL DEFAULT 0,
    copied_at timestamptz,
    PRIMARY KEY (schema_name, table_name));
CREATE TABLE IF NOT EXISTS pgstream.copied_part (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    first_block bigint NOT NULL,
    end_block bigint,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    copied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schema_name, table_name, first_block))";

/// How far a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    /// Not begun, or to be done anew: whatever the target's table holds is worth nothing.
    Unfinished,
    /// Complete as of the snapshot at `watermark`: transactions whose commit record starts there or later
    /// are to be applied to it.
    Copied {
        /// The consistent point of the snapshot it was copied under.
        watermark: Lsn,
        /// Rows copied.
        rows: u64,
        /// Bytes of COPY data.
        bytes: u64,
    },
}

/// Reads the whole ledger.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn read(target: &Session) -> Result<BTreeMap<QualifiedName, TableState>> {
    let rows = target
        .query(
            "SELECT schema_name, table_name, state = 'copied', watermark::text, rows, bytes
               FROM pgstream.copied_table",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("read what has been copied", error))?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(rows
        .iter()
        .map(|row| {
            let name = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
            let watermark = row.get::<_, Option<&str>>(3).and_then(|text| text.parse().ok());
            let state = match (row.get(2), watermark) {
                (true, Some(watermark)) => {
                    TableState::Copied { watermark, rows: count(row.get(4)), bytes: count(row.get(5)) }
                }
                _ => TableState::Unfinished,
            };
            (name, state)
        })
        .collect())
}

fn key(name: &QualifiedName) -> (String, String) {
    (quote_literal(name.schema.raw()), quote_literal(name.name.raw()))
}

/// Tables as a list of rows, for VALUES or IN; none if there are none. Written at once: they may be very many.
fn keys<'a>(tables: impl Iterator<Item = &'a QualifiedName>) -> Option<String> {
    values(tables.map(|name| {
        let (schema, table) = key(name);
        format!("({schema}, {table})")
    }))
}

fn values(rows: impl Iterator<Item = String>) -> Option<String> {
    let mut list = String::new();
    for row in rows {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(&row);
    }
    Some(list).filter(|list| !list.is_empty())
}

/// Picks a table's row out of any of the ledger's tables.
pub(super) fn key_condition(name: &QualifiedName) -> String {
    let (schema, table) = key(name);
    format!("schema_name = {schema} AND table_name = {table}")
}

/// Enters tables as pending; those already there stay as they are.
#[must_use]
pub fn enter<'a>(tables: impl Iterator<Item = &'a QualifiedName>) -> Option<String> {
    let rows = keys(tables)?;
    Some(format!(
        "INSERT INTO pgstream.copied_table (schema_name, table_name) VALUES {rows} ON CONFLICT DO NOTHING"
    ))
}

/// Notes how large tables are on the source, for whoever asks how much is left.
#[must_use]
pub fn measure<'a>(sizes: impl Iterator<Item = (&'a QualifiedName, u64)>) -> Option<String> {
    let rows = values(sizes.map(|(name, bytes)| {
        let (schema, table) = key(name);
        format!("({schema}, {table}, {bytes})")
    }))?;
    Some(format!(
        "UPDATE pgstream.copied_table AS t SET source_bytes = sized.bytes
           FROM (VALUES {rows}) AS sized (schema_name, table_name, bytes)
          WHERE t.schema_name = sized.schema_name AND t.table_name = sized.table_name"
    ))
}

/// Has tables copied once more, as if they never had been.
#[must_use]
pub fn set_back<'a>(tables: impl Iterator<Item = &'a QualifiedName>) -> Option<String> {
    let rows = keys(tables)?;
    Some(format!(
        "UPDATE pgstream.copied_table SET state = 'pending', watermark = NULL, rows = 0, bytes = 0
          WHERE (schema_name, table_name) IN ({rows})"
    ))
}

/// Empties a table that will be copied in parts by the statement `emptied`, and forgets parts of an earlier snapshot. One
/// transaction.
///
/// From here on only parts of the snapshot at `watermark` count: a statement of an earlier wave that arrives
/// late touches nothing.
#[must_use]
pub fn begin_parts(name: &QualifiedName, emptied: &str, watermark: Lsn) -> String {
    let (schema, table) = key(name);
    format!(
        "{emptied};
         DELETE FROM pgstream.copied_part WHERE schema_name = {schema} AND table_name = {table};
         UPDATE pgstream.copied_table SET state = 'copying', watermark = '{watermark}', rows = 0, bytes = 0
          WHERE schema_name = {schema} AND table_name = {table}"
    )
}

/// Notes a part; belongs into the transaction that loads it. Must touch one row.
#[must_use]
pub fn part_done(name: &QualifiedName, range: BlockRange, watermark: Lsn, rows: u64, bytes: u64) -> String {
    let (schema, table) = key(name);
    let end = range.end.map_or_else(|| "NULL".to_owned(), |end| end.to_string());
    format!(
        "INSERT INTO pgstream.copied_part (schema_name, table_name, first_block, end_block, rows, bytes)
         SELECT schema_name, table_name, {}, {end}, {rows}, {bytes}
           FROM pgstream.copied_table
          WHERE schema_name = {schema} AND table_name = {table}
            AND state = 'copying' AND watermark = '{watermark}'",
        range.first
    )
}

/// Notes tables that were copied whole, each with its rows and bytes, as [`table_done`] does for one; touches as many
/// rows as there are tables.
#[must_use]
pub fn tables_done<'a>(
    tables: impl Iterator<Item = (&'a QualifiedName, u64, u64)>,
    watermark: Lsn,
) -> String {
    let rows: Vec<String> = tables
        .map(|(name, rows, bytes)| {
            let (schema, table) = key(name);
            format!("({schema}, {table}, {rows}::pg_catalog.int8, {bytes}::pg_catalog.int8)")
        })
        .collect();
    format!(
        "UPDATE pgstream.copied_table AS t
            SET state = 'copied', watermark = '{watermark}', rows = done.rows, bytes = done.bytes, copied_at = now()
           FROM (VALUES {}) AS done (schema_name, table_name, rows, bytes)
          WHERE t.schema_name = done.schema_name AND t.table_name = done.table_name",
        rows.join(", ")
    )
}

/// Notes a table that was copied whole as complete; belongs into the transaction that loads it. Must touch
/// one row.
#[must_use]
pub fn table_done(name: &QualifiedName, watermark: Lsn, rows: u64, bytes: u64) -> String {
    let (schema, table) = key(name);
    format!(
        "UPDATE pgstream.copied_table
            SET state = 'copied', watermark = '{watermark}', rows = {rows}, bytes = {bytes}, copied_at = now()
          WHERE schema_name = {schema} AND table_name = {table}"
    )
}
