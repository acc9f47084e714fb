//! The wave that is open on a target, for whoever wants to join it, and for whoever begins another.
//!
//! Hazard: who reads it is told which rows to copy under which snapshot. What cannot be understood whole is not joined:
//! half of another version's words are not obeyed.

use super::copy::{LoadRole, OnRewrite};
use super::partition::{CopyFormat, Rank, TableCopy};
use super::queue;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Identifier, Lsn, QualifiedName, RelationId};
use crate::wire::Session;

/// A wave that another process may join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWave {
    /// Which one it is.
    pub number: i64,
    /// The keeper's snapshot.
    pub snapshot: String,
    /// The LSN of that snapshot.
    pub watermark: Lsn,
    /// `client_encoding` of both ends (P63).
    pub encoding: String,
    /// The source database's `search_path` (P58).
    pub search_path: String,
    /// The role that rows are loaded under.
    pub replica_role: LoadRole,
    /// What a table that was rewritten means for the others.
    pub rewritten: OnRewrite,
    /// Every table of it, at its place.
    pub tables: Vec<TableCopy>,
    /// Bytes of the parts that are still in the queue, as estimated on the source.
    pub bytes_left: u64,
}

/// The wave that is open now; `None` if there is none.
///
/// # Errors
/// `Connect` or `Sql`; `State` if it was written by another version of the program.
pub async fn open_wave(target: &Session) -> Result<Option<OpenWave>> {
    let Some(wave) = header(target).await? else { return Ok(None) };
    let rows = target
        .query(
            "SELECT schema_name, table_name, relation, column_names, format, bytes
               FROM pgstream.copy_table ORDER BY number",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("read the tables of a wave", error))?;
    let tables = rows.iter().map(table).collect::<Option<Vec<TableCopy>>>().ok_or_else(unreadable)?;
    // The conductor may have gone on to another one while we read.
    let now = header(target).await?.map(|now| now.number);
    Ok((now == Some(wave.number)).then_some(OpenWave { tables, ..wave }))
}

async fn header(target: &Session) -> Result<Option<OpenWave>> {
    if !has_queue(target).await? {
        return Ok(None);
    }
    let row = target
        .query_opt(
            "SELECT w.format, w.number, w.snapshot, w.watermark::text, w.encoding, w.search_path, w.load_role,
                    w.on_rewrite, coalesce((SELECT sum(p.bytes) FROM pgstream.copy_part p), 0)::int8
               FROM pgstream.copy_wave w WHERE w.is_open",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("look for a wave to join", error))?;
    let Some(row) = row else { return Ok(None) };
    if row.get::<_, i32>(0) != queue::FORMAT {
        return Err(unreadable());
    }
    let encoding: String = row.get(4);
    // It becomes a setting on the source, too.
    if !["UTF8", "SQL_ASCII"].contains(&encoding.as_str()) {
        return Err(unreadable());
    }
    Ok(Some(OpenWave {
        number: row.get(1),
        snapshot: row.get(2),
        watermark: row.get::<_, &str>(3).parse().map_err(|_| unreadable())?,
        encoding,
        search_path: row.get(5),
        replica_role: queue::role_named(row.get(6)).ok_or_else(unreadable)?,
        rewritten: queue::on_rewrite_named(row.get(7)).ok_or_else(unreadable)?,
        tables: Vec::new(),
        bytes_left: u64::try_from(row.get::<_, i64>(8)).unwrap_or(0),
    }))
}

async fn has_queue(target: &Session) -> Result<bool> {
    let row = target
        .query_one("SELECT pg_catalog.to_regclass('pgstream.copy_wave') IS NOT NULL", &[])
        .await
        .map_err(|error| Error::from_postgres("look for the queue of a copy", error))?;
    Ok(row.get(0))
}

fn unreadable() -> Error {
    Error::new(ErrorKind::State, "join the copy that the target tells of").hint(
        "Its queue was written by another version of pgstream: run the worker in the version that migrates.",
    )
}

fn table(row: &tokio_postgres::Row) -> Option<TableCopy> {
    let columns: Vec<String> = serde_json::from_str(row.get(3)).ok()?;
    let format: CopyFormat = queue::format_named(row.get(4))?;
    Some(TableCopy {
        relation: RelationId::new(u32::try_from(row.get::<_, i64>(2)).ok()?),
        name: QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)),
        columns: columns.into_iter().map(Identifier::new).collect(),
        format,
        blocks: 0,
        bytes: u64::try_from(row.get::<_, i64>(5)).ok()?,
        rank: Rank::BySize,
    })
}

/// Lets nobody take a part any more, if there is a queue at all: whoever holds the migration's lock begins another wave.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn shut_wave(target: &Session) -> Result<()> {
    if !has_queue(target).await? {
        return Ok(());
    }
    target
        .batch_execute("UPDATE pgstream.copy_wave SET is_open = false")
        .await
        .map_err(|error| Error::from_postgres("end the wave of an earlier run", error))
}

/// Waits until nothing of a wave that was shut is under way, other processes' parts included: only then does the ledger
/// stand still.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn settle_wave(target: &Session) -> Result<()> {
    if !has_queue(target).await? {
        return Ok(());
    }
    target
        .batch_execute("DELETE FROM pgstream.copy_part; DELETE FROM pgstream.copy_news")
        .await
        .map_err(|error| Error::from_postgres("wait for what an earlier run has under way", error))
}
