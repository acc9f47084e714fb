//! The queue of parts on the target, from which every process that copies takes its work.
//!
//! Hazards:
//! - A process may vanish at any moment. Taking a part means deleting its row in the transaction that loads it: with
//!   the connection goes the transaction, and the row is back for whoever looks next. No lease, no clock: a host that is
//!   gone without a word is noticed by the target's keepalives, which every connection of ours sets (P92).
//! - A part of one wave must not be loaded into another. Emptying the queue waits for every claim that is open, and a
//!   claim names its wave: when a wave has ended, nothing of it is under way.
//! - Two processes that end the last two parts of a table must not each leave its completion to the other. The row of
//!   the table in the ledger is locked first, and only then asked whether parts are left. (Every session of ours is
//!   pinned to READ COMMITTED, where the answer knows what the other has committed.)
//!
//! ```text
//!              claim                 commit: what it loaded is noted
//!   waiting ──────────▶ taken ──────────────────────────────────────▶ gone
//!      ▲                  │ rollback, or the connection ends
//!      └──────────────────┘
//! ```
//!
//! What is written here is data, never SQL: each process words its statements itself, and none runs on the source what it
//! has read on the target.

use super::copy::{LoadRole, OnRewrite};
use super::ledger;
use super::partition::{BlockRange, CopyFormat, Part, TABLES_MAX};
use crate::pg::{Lsn, QualifiedName};
use crate::wire::Row;

/// The queue's tables.
pub const DDL: &str = "
CREATE TABLE IF NOT EXISTS pgstream.copy_wave (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    format integer NOT NULL,
    number bigint NOT NULL,
    is_open boolean NOT NULL,
    snapshot text NOT NULL,
    watermark pg_lsn NOT NULL,
    encoding text NOT NULL,
    search_path text NOT NULL,
    load_role text NOT NULL,
    on_rewrite text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS pgstream.copy_table (
    number bigint PRIMARY KEY,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    relation bigint NOT NULL,
    column_names text NOT NULL,
    format text NOT NULL,
    bytes bigint NOT NULL,
    put_off text);
CREATE TABLE IF NOT EXISTS pgstream.copy_part (
    ordinal bigint PRIMARY KEY,
    first_table bigint NOT NULL,
    tables bigint NOT NULL,
    first_block bigint,
    end_block bigint,
    bytes bigint NOT NULL);
CREATE INDEX IF NOT EXISTS copy_part_of_table ON pgstream.copy_part (first_table);
CREATE TABLE IF NOT EXISTS pgstream.copy_news (
    first_table bigint NOT NULL,
    tables bigint NOT NULL,
    bytes bigint NOT NULL)";

/// The version of what these tables say.
pub(super) const FORMAT: i32 = 1;

/// Between the places of two parts: a part of several tables may be cut into one for each.
pub(super) const ORDINAL_STEP: i64 = TABLES_MAX as i64;

/// A part that is taken until the transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) ordinal: i64,
    pub(super) part: Part,
}

impl Claim {
    /// Reads what [`claim`] gives; `None` for what no claim gives.
    pub(super) fn read(row: &Row) -> Option<Claim> {
        fn number<T: std::str::FromStr>(row: &Row, name: &str) -> Option<T> {
            row.get(name)?.parse().ok()
        }
        let range =
            number(row, "first_block").map(|first| BlockRange { first, end: number(row, "end_block") });
        let (table, count) = (number(row, "first_table")?, number(row, "tables")?);
        let part = Part { table, count, range, bytes: number(row, "bytes")? };
        Some(Claim { ordinal: number(row, "ordinal")?, part })
    }
}

/// Holds while the wave is under way; a wave that was followed by another never is again.
fn is_open(wave: i64) -> String {
    format!("EXISTS (SELECT FROM pgstream.copy_wave w WHERE w.is_open AND w.number = {wave})")
}

/// Opens the transaction that loads, and takes the first part that nobody else has.
pub(super) fn claim(wave: i64) -> String {
    format!(
        "BEGIN;
         DELETE FROM pgstream.copy_part WHERE ordinal = ({})
         RETURNING ordinal, first_table, tables, first_block, end_block, bytes",
        free(wave)
    )
}

/// The first part that nobody has taken, locked for as long as the transaction lasts.
pub(super) fn free(wave: i64) -> String {
    format!("{} SKIP LOCKED", settled(wave))
}

/// The first part that is not copied, once it is known whether it will be; no row when all are.
pub(super) fn settled(wave: i64) -> String {
    format!(
        "SELECT p.ordinal FROM pgstream.copy_part p WHERE {} ORDER BY p.ordinal LIMIT 1 FOR UPDATE",
        is_open(wave)
    )
}

/// Puts each table of a part into the queue by itself, if nobody else has taken the part meanwhile.
pub(super) fn scatter(wave: i64, claim: &Claim) -> String {
    format!(
        "WITH taken AS (
             DELETE FROM pgstream.copy_part WHERE ordinal = (
                 SELECT p.ordinal FROM pgstream.copy_part p
                  WHERE p.ordinal = {} AND p.tables > 1 AND {} FOR UPDATE SKIP LOCKED)
             RETURNING ordinal, first_table, tables, bytes)
         INSERT INTO pgstream.copy_part (ordinal, first_table, tables, bytes)
         SELECT ordinal + n, first_table + n, 1, bytes / tables
           FROM taken, pg_catalog.generate_series(0, tables - 1) AS n",
        claim.ordinal,
        is_open(wave)
    )
}

/// Leaves a table to a later wave: nobody takes a part of it any more.
///
/// Parts that others have taken stay theirs, and come to nothing: a table that is put off is never complete.
pub(super) fn put_off(wave: i64, table: usize, why: &str) -> String {
    format!(
        "UPDATE pgstream.copy_table SET put_off = '{why}' WHERE number = {table} AND {open};
         DELETE FROM pgstream.copy_part WHERE ordinal = ANY (ARRAY(
             SELECT p.ordinal FROM pgstream.copy_part p
              WHERE p.first_table = {table} AND p.tables = 1 AND {open} FOR UPDATE SKIP LOCKED))",
        open = is_open(wave)
    )
}

/// Takes from the queue every table of which no part has been taken; one row says how many parts those were.
///
/// What others have taken is locked and passed over, and so is told from what is free.
pub(super) fn leave_unbegun(wave: i64) -> String {
    format!(
        "WITH free AS (
             SELECT p.ordinal, p.first_table FROM pgstream.copy_part p WHERE {} FOR UPDATE SKIP LOCKED),
         whole AS (
             SELECT first_table FROM free GROUP BY first_table
             HAVING count(*) = (SELECT count(*) FROM pgstream.copy_part p WHERE p.first_table = free.first_table)
                AND NOT EXISTS (
                    SELECT FROM pgstream.copy_table t JOIN pgstream.copied_part c USING (schema_name, table_name)
                     WHERE t.number = free.first_table)),
         gone AS (
             DELETE FROM pgstream.copy_part WHERE ordinal IN (
                 SELECT ordinal FROM free JOIN whole USING (first_table))
             RETURNING 1)
         SELECT pg_catalog.count(*) FROM gone",
        is_open(wave)
    )
}

/// Nobody takes a part of this wave from now on.
pub(super) fn shut(wave: i64) -> String {
    format!("UPDATE pgstream.copy_wave SET is_open = false WHERE number = {wave}")
}

/// Tells the conductor of what another process has loaded; belongs into the transaction that loads it.
pub(super) fn news(part: &Part, bytes: u64) -> String {
    format!(
        "INSERT INTO pgstream.copy_news (first_table, tables, bytes) VALUES ({}, {}, {bytes})",
        part.table, part.count
    )
}

/// Notes a part in the transaction that loads it, and completes its table if it was the last.
///
/// Gives a row with `noted` if the wave still has the table, and one with `total_rows`, `total_bytes` and `seconds` if
/// the table is complete.
pub(super) fn part_done(
    table: usize,
    name: &QualifiedName,
    range: BlockRange,
    watermark: Lsn,
    rows: u64,
    bytes: u64,
) -> String {
    let key = ledger::key_condition(name);
    format!(
        "SELECT true AS locked FROM pgstream.copied_table WHERE {key} FOR UPDATE;
         {} RETURNING true AS noted;
         UPDATE pgstream.copied_table
            SET state = 'copied', rows = sum.rows, bytes = sum.bytes, copied_at = now()
           FROM (SELECT pg_catalog.sum(p.rows)::pg_catalog.int8 AS rows,
                        pg_catalog.sum(p.bytes)::pg_catalog.int8 AS bytes,
                        extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(p.copied_at)) AS seconds
                   FROM pgstream.copied_part p WHERE {key}) AS sum
          WHERE {key} AND state = 'copying' AND watermark = '{watermark}'
            AND NOT EXISTS (SELECT FROM pgstream.copy_part q WHERE q.first_table = {table})
            AND NOT EXISTS (SELECT FROM pgstream.copy_table t WHERE t.number = {table} AND t.put_off IS NOT NULL)
         RETURNING sum.rows AS total_rows, sum.bytes AS total_bytes, sum.seconds AS seconds",
        ledger::part_done(name, range, watermark, rows, bytes)
    )
}

/// The names that settings bear on the target.
pub(super) const fn role_label(role: LoadRole) -> &'static str {
    match role {
        LoadRole::Origin => "origin",
        LoadRole::Replica => "replica",
        LoadRole::ReplicaThroughAivenExtras => "aiven_extras",
    }
}

pub(super) fn role_named(label: &str) -> Option<LoadRole> {
    [LoadRole::Origin, LoadRole::Replica, LoadRole::ReplicaThroughAivenExtras]
        .into_iter()
        .find(|role| role_label(*role) == label)
}

pub(super) const fn on_rewrite_label(on_rewrite: OnRewrite) -> &'static str {
    match on_rewrite {
        OnRewrite::PutOff => "put off",
        OnRewrite::End => "end",
    }
}

pub(super) fn on_rewrite_named(label: &str) -> Option<OnRewrite> {
    [OnRewrite::PutOff, OnRewrite::End].into_iter().find(|one| on_rewrite_label(*one) == label)
}

pub(super) const fn format_label(format: CopyFormat) -> &'static str {
    match format {
        CopyFormat::Binary => "binary",
        CopyFormat::Text => "text",
    }
}

pub(super) fn format_named(label: &str) -> Option<CopyFormat> {
    [CopyFormat::Binary, CopyFormat::Text].into_iter().find(|format| format_label(*format) == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_they_were_written() {
        for role in [LoadRole::Origin, LoadRole::Replica, LoadRole::ReplicaThroughAivenExtras] {
            assert_eq!(role_named(role_label(role)), Some(role));
        }
        for on_rewrite in [OnRewrite::PutOff, OnRewrite::End] {
            assert_eq!(on_rewrite_named(on_rewrite_label(on_rewrite)), Some(on_rewrite));
        }
        for format in [CopyFormat::Binary, CopyFormat::Text] {
            assert_eq!(format_named(format_label(format)), Some(format));
        }
    }
}
