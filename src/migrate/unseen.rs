//! Finds tables that a PostgreSQL 10 has truncated or rewritten without a word in its stream, and copies them again.
//!
//! Hazard: before 11 TRUNCATE is not decoded (P41). The rows it removed would stay on the target, and the first
//! key that is used again would stop the applier for good. What it leaves is a new file: so each table's file is
//! noted before it is copied; a table with another one is set aside, its changes skipped from then on, and
//! copied again when writes have stopped. VACUUM FULL and CLUSTER look the same, and cost the same copy.

use std::collections::{HashMap, HashSet};

use super::run::Run;
use crate::bulk::ledger::{self, TableState};
use crate::error::{Error, Result};
use crate::pg::{Lsn, QualifiedName};
use crate::wire::Session;

/// The first major whose stream tells of TRUNCATE.
const TELLS_SINCE: u32 = 11;
/// The watermark of a table that is set aside: no transaction commits there or later.
pub(super) const ASIDE: Lsn = Lsn::new(u64::MAX);

const DDL: &str = "CREATE TABLE IF NOT EXISTS pgstream.source_file (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    file oid NOT NULL,
    PRIMARY KEY (schema_name, table_name))";

/// What the operator should know before it matters.
pub(super) async fn warn(run: &Run) -> Result<()> {
    if tells(run) {
        return Ok(());
    }
    run.warn(
        "PostgreSQL 10 does not stream TRUNCATE: a table that is truncated, or rewritten by VACUUM FULL, CLUSTER or \
         ALTER TABLE, is copied again at cutover, while writes are stopped.",
    )
    .await
}

/// Notes the files of tables that are about to be copied: the copy itself sees to it that they do not change
/// between its snapshot and its lock (P15). Also where TRUNCATE is streamed: a rewrite by ALTER TABLE is not.
pub(super) async fn note(run: &Run, tables: &[QualifiedName]) -> Result<()> {
    let files = files(&run.source).await?;
    let (mut schemas, mut names, mut oids) = (Vec::new(), Vec::new(), Vec::new());
    for table in tables {
        if let Some(file) = files.get(table) {
            schemas.push(table.schema.raw());
            names.push(table.name.raw());
            oids.push(*file);
        }
    }
    let failed = |error| Error::from_postgres("note the files of the source's tables", error);
    run.target.batch_execute(DDL).await.map_err(failed)?;
    run.target
        .execute(
            "INSERT INTO pgstream.source_file (schema_name, table_name, file)
             SELECT * FROM unnest($1::text[], $2::text[], $3::oid[])
             ON CONFLICT (schema_name, table_name) DO UPDATE SET file = EXCLUDED.file",
            &[&schemas, &names, &oids],
        )
        .await
        .map(drop)
        .map_err(failed)
}

/// Whether a table is known to have the file that it was copied from.
pub(super) async fn is_untouched(run: &Run, table: &QualifiedName) -> Result<bool> {
    let failed = |error| Error::from_postgres("read the file that a table was copied from", error);
    run.target.batch_execute(DDL).await.map_err(failed)?;
    let noted = run
        .target
        .query_opt(
            "SELECT file FROM pgstream.source_file WHERE schema_name = $1 AND table_name = $2",
            &[&table.schema.raw(), &table.name.raw()],
        )
        .await
        .map_err(failed)?;
    let Some(noted) = noted else { return Ok(false) };
    Ok(files(&run.source).await?.get(table) == Some(&noted.get(0)))
}

/// The tables that have another file than the one they were copied from, where the stream does not say why.
pub(super) async fn changed(run: &Run) -> Result<HashSet<QualifiedName>> {
    if tells(run) {
        return Ok(HashSet::new());
    }
    let failed = |error| Error::from_postgres("read the files of the source's tables", error);
    run.target.batch_execute(DDL).await.map_err(failed)?;
    let noted = run
        .target
        .query("SELECT schema_name, table_name, file FROM pgstream.source_file", &[])
        .await
        .map_err(failed)?;
    let now = files(&run.source).await?;
    let noted = noted
        .iter()
        .map(|row| (QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)), row.get::<_, u32>(2)));
    Ok(noted
        .filter(|(name, file)| now.get(name).is_some_and(|now| now != file))
        .map(|(name, _)| name)
        .collect())
}

/// Skips what the stream still brings for tables that have changed so. Returns whether one is newly found.
pub(super) async fn set_aside(run: &Run) -> Result<Found> {
    let changed = changed(run).await?;
    let ledger = ledger::read(&run.target).await?;
    let mut found = Found::Nothing;
    for name in &changed {
        match ledger.get(name) {
            Some(TableState::Copied { watermark, .. }) if *watermark != ASIDE => {}
            Some(TableState::Copied { .. } | TableState::Unfinished) | None => continue,
        }
        let aside = "UPDATE pgstream.copied_table SET watermark = $3::text::pg_lsn
                      WHERE schema_name = $1 AND table_name = $2 AND state = 'copied'";
        run.target
            .execute(aside, &[&name.schema.raw(), &name.name.raw(), &ASIDE.to_string()])
            .await
            .map_err(|error| Error::from_postgres("set a table aside", error))?;
        run.warn(&format!(
            "{} was truncated or rewritten on the source, which PostgreSQL 10 does not stream: \
             it stays as it is until it is copied again at cutover",
            name.plain()
        ))
        .await?;
        found = Found::More;
    }
    Ok(found)
}

/// Whether the stream brings less than it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// As before.
    Nothing,
    /// At least one more table is set aside.
    More,
}

fn tells(run: &Run) -> bool {
    run.source_version.major() >= TELLS_SINCE
}

async fn files(source: &Session) -> Result<HashMap<QualifiedName, u32>> {
    let rows = source
        .query(
            "SELECT n.nspname::text, c.relname::text, c.relfilenode
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("read the files of the source's tables", error))?;
    Ok(rows
        .iter()
        .map(|row| (QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)), row.get(2)))
        .collect())
}
