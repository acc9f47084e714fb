//! What a migration remembers: schema `pgstream` in the target database.
//!
//! Hazard: a crash may come between any two statements. So every object that we are about to make on the
//! source is written here first (P30), a phase is entered in the same transaction as what begins it, and
//! the archive of definitions is kept here, too, so that a run goes on from another machine.

use std::collections::HashSet;

pub use super::journal::{Made, forget, journal, journalled};
use super::outcome::Decisive;
use crate::apply;
use crate::bulk::{self, ledger};
use crate::catalog::Filters;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Identifier, Lsn, SlotName, SystemIdentifier, Timeline, quote_literal};
use crate::precheck::Method;
use crate::schema::DumpId;
use crate::telemetry::Phase;
use crate::wire::Session;

const DDL: &str = "
CREATE SCHEMA IF NOT EXISTS pgstream;
REVOKE ALL ON SCHEMA pgstream FROM PUBLIC;
COMMENT ON SCHEMA pgstream IS 'state of a migration by pgstream; removed when it is complete';
CREATE TABLE IF NOT EXISTS pgstream.migration (
    id text PRIMARY KEY,
    source_system text NOT NULL,
    source_timeline bigint NOT NULL,
    source_database text NOT NULL,
    phase text NOT NULL,
    consistent_point pg_lsn,
    filters jsonb NOT NULL,
    method text NOT NULL,
    decided_by text,
    decided_because text,
    started_at timestamptz NOT NULL DEFAULT now(),
    phase_entered_at timestamptz NOT NULL DEFAULT now(),
    last_error text,
    last_error_at timestamptz);
CREATE TABLE IF NOT EXISTS pgstream.journal (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    schema_name text NOT NULL,
    object_name text NOT NULL,
    detail text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, schema_name, object_name));
CREATE TABLE IF NOT EXISTS pgstream.snapshot (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    ordinal bigint NOT NULL,
    content text);
CREATE TABLE IF NOT EXISTS pgstream.archive (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    content bytea NOT NULL);
CREATE TABLE IF NOT EXISTS pgstream.restored (
    dump_id bigint PRIMARY KEY,
    restored_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS pgstream.warning (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message text NOT NULL UNIQUE)";

/// What tells one migration from every other; part of each name that we give on the source (P29).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MigrationId(String);

impl MigrationId {
    /// A new one: eight random hexadecimal digits.
    #[must_use]
    pub fn random() -> MigrationId {
        use std::hash::{BuildHasher, Hasher};

        // The standard library seeds each of these anew from the system's randomness.
        let number = std::collections::hash_map::RandomState::new().build_hasher().finish();
        MigrationId(format!("{:08x}", number & 0xFFFF_FFFF))
    }

    /// An id that was written down before; `None` unless it has the form of one.
    #[must_use]
    pub fn read(text: &str) -> Option<MigrationId> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 8 && text.bytes().all(digit)).then(|| MigrationId(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot that the stream runs from.
    #[must_use]
    pub fn slot(&self) -> SlotName {
        format!("pgstream_{}", self.0).parse().expect("hexadecimal digits are legal in a slot's name")
    }

    /// A slot for one later snapshot; temporary.
    #[must_use]
    pub fn snapshot_slot(&self) -> SlotName {
        format!("pgstream_{}_snapshot", self.0)
            .parse()
            .expect("hexadecimal digits are legal in a slot's name")
    }

    /// The publication of everything that changes in every way.
    #[must_use]
    pub fn publication(&self) -> Identifier {
        Identifier::new(format!("pgstream_{}", self.0))
    }

    /// The publication of tables that only grow.
    #[must_use]
    pub fn insert_publication(&self) -> Identifier {
        Identifier::new(format!("pgstream_{}_insert", self.0))
    }
}

/// The migration's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its id.
    pub id: MigrationId,
    /// The source cluster.
    pub source_system: SystemIdentifier,
    /// The source's timeline when it began (P23).
    pub source_timeline: Timeline,
    /// The source database.
    pub source_database: String,
    /// The phase entered last.
    pub phase: Phase,
    /// The slot's consistent point, once there is a slot.
    pub consistent_point: Option<Lsn>,
    /// What is moved, as [`Filters::to_json`] writes it.
    pub filters: serde_json::Value,
    /// How the rows travel; never changes (P98).
    pub method: Method,
    /// The check that decided for that method, if it was not the operator.
    pub decided_by: Option<Decisive>,
}

/// The latest snapshot that a dump copied under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The how-manieth it was, from 1.
    pub ordinal: u64,
    /// What it showed, where that has a name ([`crate::bulk::Keeper::content`]).
    pub content: Option<String>,
}

pub(super) fn failed(doing: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + '_ {
    move |error| Error::from_postgres(doing, error)
}

/// Reads the state; `None` when this database holds none.
///
/// # Errors
/// `Connect`, `Sql`; `State` if what is there cannot be read.
pub async fn find(target: &Session) -> Result<Option<State>> {
    let doing = "read the migration's state";
    let exists = target
        .query_one("SELECT pg_catalog.to_regclass('pgstream.migration') IS NOT NULL", &[])
        .await
        .map_err(failed(doing))?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = target
        .query_opt(
            "SELECT id, source_system, source_timeline, source_database, phase, consistent_point::text, method,
                    decided_by, decided_because, filters::text
               FROM pgstream.migration",
            &[],
        )
        .await
        .map_err(failed(doing))?;
    let Some(row) = row else { return Ok(None) };
    let unreadable = || {
        Error::new(ErrorKind::State, doing)
            .hint("The schema pgstream on the target was written by another version, or changed by hand.")
    };
    Ok(Some(State {
        id: MigrationId(row.get(0)),
        source_system: SystemIdentifier::new(row.get::<_, &str>(1).parse().map_err(|_| unreadable())?),
        source_timeline: Timeline::new(u32::try_from(row.get::<_, i64>(2)).map_err(|_| unreadable())?),
        source_database: row.get(3),
        phase: phase_named(row.get(4)).ok_or_else(unreadable)?,
        consistent_point: row.get::<_, Option<&str>>(5).and_then(|text| text.parse().ok()),
        method: method_named(row.get(6)).ok_or_else(unreadable)?,
        decided_by: row
            .get::<_, Option<String>>(7)
            .zip(row.get(8))
            .map(|(check, message)| Decisive { check, message }),
        filters: serde_json::from_str(row.get(9)).map_err(|_| unreadable())?,
    }))
}

fn phase_named(label: &str) -> Option<Phase> {
    Phase::ALL.iter().copied().find(|phase| phase.label() == label)
}

/// The method's name, in the state and for people.
#[must_use]
pub const fn method_label(method: Method) -> &'static str {
    match method {
        Method::Replication => "replication",
        Method::Dump => "dump",
    }
}

fn method_named(label: &str) -> Option<Method> {
    [Method::Replication, Method::Dump].into_iter().find(|method| method_label(*method) == label)
}

/// Creates the schema and enters the first phase.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn begin(target: &Session, state: &State) -> Result<()> {
    // Several statements in one query are one transaction.
    let begin = format!(
        "SET client_min_messages = warning;
         {DDL}; {}; {}; {};
         INSERT INTO pgstream.migration
             (id, source_system, source_timeline, source_database, phase, method, decided_by, decided_because, filters)
         VALUES ({}, '{}', {}, {}, '{}', '{}', {}, {}, {})",
        ledger::DDL,
        bulk::QUEUE_DDL,
        apply::PROGRESS_DDL,
        quote_literal(state.id.as_str()),
        state.source_system,
        state.source_timeline,
        quote_literal(&state.source_database),
        state.phase.label(),
        method_label(state.method),
        literal(state.decided_by.as_ref().map(|decisive| &*decisive.check)),
        literal(state.decided_by.as_ref().map(|decisive| &*decisive.message)),
        quote_literal(&state.filters.to_string())
    );
    target.batch_execute(&begin).await.map_err(failed("create the migration's state on the target"))
}

/// Sees to it that a migration goes on with the filters it began with. As long as no definition has been
/// carried, another choice takes the place of the first; and as long as no copy has begun, one of other rows.
///
/// # Errors
/// `Usage`, with the options that differ; `Connect` or `Sql`.
pub async fn adopt_filters(target: &Session, state: &State, filters: &Filters) -> Result<()> {
    let changes = filters.changes_since(&state.filters);
    if changes.is_empty() {
        return Ok(());
    }
    let rows_are_to_come =
        state.phase <= Phase::SchemaReady && filters.carries_definitions_of(&state.filters);
    let changed = target
        .execute(
            "UPDATE pgstream.migration SET filters = $1::text::jsonb
              WHERE $2 OR NOT EXISTS (SELECT FROM pgstream.archive)",
            &[&filters.to_json().to_string(), &rows_are_to_come],
        )
        .await
        .map_err(failed("change what is moved"))?;
    if changed > 0 {
        return Ok(());
    }
    let doing = format!("go on with migration {}, which moves something else", state.id.as_str());
    Err(Error::new(ErrorKind::Usage, doing)
        .because(changes.join("; "))
        .hint("Give the options that the migration began with, or drop the target database and begin anew."))
}

fn literal(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), quote_literal)
}

/// The latest snapshot of a dump; `None` before the first.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn snapshot(target: &Session) -> Result<Option<Snapshot>> {
    let row = target
        .query_opt("SELECT ordinal, content FROM pgstream.snapshot", &[])
        .await
        .map_err(failed("read which snapshot was copied under"))?;
    Ok(row.map(|row| Snapshot { ordinal: row.get::<_, i64>(0).unsigned_abs(), content: row.get(1) }))
}

/// The statement that notes a snapshot.
#[must_use]
pub fn note_snapshot(snapshot: &Snapshot) -> String {
    format!(
        "INSERT INTO pgstream.snapshot (ordinal, content) VALUES ({}, {})
         ON CONFLICT (only_row) DO UPDATE SET ordinal = EXCLUDED.ordinal, content = EXCLUDED.content",
        snapshot.ordinal,
        literal(snapshot.content.as_deref())
    )
}

/// Enters a phase, and does `also` in the same transaction.
///
/// # Errors
/// `Connect` or `Sql`; nothing was done then.
pub async fn enter(target: &Session, phase: Phase, also: &str) -> Result<()> {
    let enter = format!(
        "{also};
         UPDATE pgstream.migration SET phase = '{}', phase_entered_at = pg_catalog.now()",
        phase.label()
    );
    target.batch_execute(&enter).await.map_err(failed(&format!("enter phase {}", phase.label())))?;
    tracing::info!(phase = phase.label(), "phase entered");
    Ok(())
}

/// An archive beyond this is not one of definitions only.
const ARCHIVE_BYTES_MAX: usize = 1 << 30;

/// Keeps the archive of definitions, packed: of thousands of tables it is a tenth of the bytes.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn save_archive(target: &Session, content: &[u8]) -> Result<()> {
    let packed = lz4_flex::block::compress_prepend_size(content);
    target
        .execute(
            // What was restored from an earlier archive bears other numbers in this one.
            "WITH forgotten AS (DELETE FROM pgstream.restored)
             INSERT INTO pgstream.archive (content) VALUES ($1)
             ON CONFLICT (only_row) DO UPDATE SET content = EXCLUDED.content",
            &[&packed],
        )
        .await
        .map(drop)
        .map_err(failed("keep the archive of definitions on the target"))
}

/// Fetches the archive again.
///
/// # Errors
/// `Connect` or `Sql`; `State` if there is none, or what is there was not kept by us.
pub async fn load_archive(target: &Session) -> Result<Vec<u8>> {
    let row = target
        .query_opt("SELECT content FROM pgstream.archive", &[])
        .await
        .map_err(failed("fetch the archive of definitions from the target"))?;
    let row = row.ok_or_else(|| Error::new(ErrorKind::State, "find the archive of definitions"))?;
    unpack(row.get(0)).ok_or_else(|| {
        Error::new(ErrorKind::State, "read the archive of definitions")
            .hint("What pgstream.archive on the target holds was not written by this version of pgstream.")
    })
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    // The length is believed up to a bound: it is what is reserved.
    let (length, _) =
        lz4_flex::block::uncompressed_size(packed).ok().filter(|(length, _)| *length <= ARCHIVE_BYTES_MAX)?;
    let content = lz4_flex::block::decompress_size_prepended(packed).ok()?;
    Some(content).filter(|content| content.len() == length)
}

/// Notes entries of the archive as restored.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn mark_restored(target: &Session, ids: &[DumpId]) -> Result<()> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(id.get())).collect();
    target
        .execute(
            "INSERT INTO pgstream.restored (dump_id) SELECT pg_catalog.unnest($1::int8[]) ON CONFLICT DO NOTHING",
            &[&ids],
        )
        .await
        .map(drop)
        .map_err(failed("note what was restored"))
}

/// The statement of [`mark_restored`], for the transaction that restores.
#[must_use]
pub fn restored_note(ids: impl Iterator<Item = DumpId>) -> String {
    let ids: Vec<String> = ids.map(|id| format!("({})", id.get())).collect();
    format!("INSERT INTO pgstream.restored (dump_id) VALUES {} ON CONFLICT DO NOTHING", ids.join(", "))
}

/// Entries of the archive that are restored.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn restored(target: &Session) -> Result<HashSet<DumpId>> {
    let rows = target
        .query("SELECT dump_id FROM pgstream.restored", &[])
        .await
        .map_err(failed("read what was restored"))?;
    Ok(rows.iter().filter_map(|row| u32::try_from(row.get::<_, i64>(0)).ok()).map(DumpId::new).collect())
}

/// Keeps a warning for the result, also if this process does not live to print it.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn warn(target: &Session, message: &str) -> Result<()> {
    target
        .execute("INSERT INTO pgstream.warning (message) VALUES ($1) ON CONFLICT DO NOTHING", &[&message])
        .await
        .map(drop)
        .map_err(failed("keep a warning"))
}

/// Keeps what ended an attempt, for whoever asks how it goes. It is past as soon as anything later is noted.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn note_error(target: &Session, message: &str) -> Result<()> {
    target
        .execute(
            "UPDATE pgstream.migration SET last_error = $1, last_error_at = pg_catalog.clock_timestamp()",
            &[&message],
        )
        .await
        .map(drop)
        .map_err(failed("keep the last error"))
}

/// Every warning so far, in order.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn warnings(target: &Session) -> Result<Vec<String>> {
    let rows = target
        .query("SELECT message FROM pgstream.warning ORDER BY seq", &[])
        .await
        .map_err(failed("read the warnings"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Removes the state: the migration is over.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn remove(target: &Session) -> Result<()> {
    target
        .batch_execute("SET client_min_messages = warning; DROP SCHEMA IF EXISTS pgstream CASCADE")
        .await
        .map_err(failed("remove the migration's state from the target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_as_it_was_kept_and_nothing_else_is() {
        let content = b"PGDMP and so on, and so on, and so on".repeat(100);
        let packed = lz4_flex::block::compress_prepend_size(&content);
        assert_eq!(unpack(&packed), Some(content));
        assert_eq!(unpack(&packed[..packed.len() - 1]), None);
        assert_eq!(unpack(b"PGDMP"), None);
        assert_eq!(unpack(b""), None);
        assert_eq!(unpack(&[0xff; 40]), None, "four gigabytes are not reserved");
    }
}
