//! Rows that the target refuses, parked there with every later change of the same row, until a person has mended
//! what refused them.
//!
//! Hazard: a change that overtakes a parked one of its row is lost when that one is replayed. So a key is parked,
//! not a change: whatever follows for it waits behind, in the stream's order, and a changed key parks both. What is
//! parked is written in the target transaction that records the progress beyond it: it is there once, or will be.
//! Keys are told apart by their text, in one lane and in commit order: for binary values and for lanes that overtake
//! each other nothing here would hold, so the caller begins a stream of text before a first row is parked.
//!
//! ```text
//!   change ─▶ is its key parked? ── no ──▶ told to the target ── refused ─╮
//!                    │ yes                                                │
//!                    ╰──────────▶ pgstream.quarantine ◀───────────────────╯
//! ```
//! A chain is the changes of one row, and of the rows that it gave its key to or took it from.

mod replay;
mod sift;
mod written;

pub use self::replay::replay_parked;
pub(super) use self::sift::{News, Quarantine, Sifted};

use super::answer::field;
use crate::error::{Error, Result};
use crate::pg::{QualifiedName, SlotName};
use crate::wire::Session;

/// The table of what is parked. It holds users' values: its owner's to read, and nobody else's.
const DDL: &str = "
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS pgstream.quarantine (
    ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slot text NOT NULL,
    chain bigint NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key text NOT NULL,
    new_key text,
    kind text NOT NULL,
    columns text[] NOT NULL,
    old_row json,
    new_row json,
    commit_lsn pg_lsn NOT NULL,
    xid bigint NOT NULL,
    sqlstate text,
    message text,
    parked_at timestamp with time zone NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS quarantine_chain ON pgstream.quarantine (slot, chain, ordinal);
REVOKE ALL ON pgstream.quarantine FROM PUBLIC;
RESET client_min_messages";

const EXISTS: &str = "SELECT pg_catalog.to_regclass('pgstream.quarantine') IS NOT NULL";

const TABLES: &str = "
SELECT schema_name, table_name, count(DISTINCT chain), count(*)
FROM pgstream.quarantine WHERE slot = $1 GROUP BY 1, 2 ORDER BY 1, 2";

const DISCARD: &str = "DELETE FROM pgstream.quarantine WHERE slot = $1";

/// What becomes of a change that the target refuses even by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refusals {
    /// It ends the applier. What follows a row that was parked before is parked all the same.
    #[default]
    Stop,
    /// Its row is parked.
    Park,
}

/// What is parked of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedTable {
    /// Its name.
    pub table: QualifiedName,
    /// Rows; those that took over each other's keys count as one.
    pub rows: u64,
    /// Their changes.
    pub changes: u64,
}

/// What is parked for a slot, by table.
///
/// # Errors
/// As [`Error::from_postgres`] classes them.
pub async fn parked(session: &Session, slot: &SlotName) -> Result<Vec<ParkedTable>> {
    if !exists(session).await? {
        return Ok(Vec::new());
    }
    let rows = session.query(TABLES, &[&slot.as_str()]).await;
    let rows = rows.map_err(|error| Error::from_postgres("count what is parked", error))?;
    let count = |row, at| Ok::<_, Error>(field::<i64>(row, at)?.unsigned_abs());
    let table = |row| Ok(ParkedTable { table: name(row)?, rows: count(row, 2)?, changes: count(row, 3)? });
    rows.iter().map(table).collect()
}

/// Gives up what is parked for a slot.
///
/// # Errors
/// As [`Error::from_postgres`] classes them.
pub async fn discard_parked(session: &Session, slot: &SlotName) -> Result<()> {
    if exists(session).await? {
        let done = session.execute(DISCARD, &[&slot.as_str()]).await;
        done.map_err(|error| Error::from_postgres("give up what is parked", error))?;
    }
    Ok(())
}

async fn exists(session: &Session) -> Result<bool> {
    let row = session.query_one(EXISTS, &[]).await;
    field(&row.map_err(|error| Error::from_postgres("look for what is parked", error))?, 0)
}

fn name(row: &tokio_postgres::Row) -> Result<QualifiedName> {
    Ok(QualifiedName::new(field::<String>(row, 0)?, field::<String>(row, 1)?))
}
