//! What becomes of rows that the target refuses: `--quarantine`.
//!
//! Hazard: a row that is parked is missing from the target, or stale there, and the migration looks well. So every
//! result names it, and nothing ends for good before somebody has decided.

use super::config::Quarantine;
use super::follow;
use super::run::Run;
use crate::apply::{self, ParkedTable};
use crate::error::{Error, ErrorKind, Result};

/// What is parked, by table.
pub(super) async fn parked(run: &Run) -> Result<Vec<ParkedTable>> {
    apply::parked(&run.target, &run.id.slot()).await
}

/// Does with what is parked as the operator wants it, before changes flow again.
pub(super) async fn settle(run: &Run) -> Result<()> {
    match run.options.quarantine {
        Quarantine::Stop | Quarantine::Park => {}
        Quarantine::Replay => replay(run).await?,
        Quarantine::Discard => discard(run).await?,
    }
    for table in parked(run).await? {
        tracing::warn!(
            relation = table.table.plain(),
            rows = table.rows,
            changes = table.changes,
            "rows are parked, and what changes them joins them"
        );
    }
    Ok(())
}

async fn replay(run: &Run) -> Result<()> {
    if parked(run).await?.is_empty() {
        return Ok(());
    }
    let start = follow::position(run).await?;
    let options = follow::apply_options(run, start, run.source_version.pgoutput_version()).await?;
    let changes = apply::replay_parked(&options).await?;
    tracing::info!(changes, "what was parked has been applied");
    run.progress.note(&format!("{changes} changes that were parked have been applied"));
    for warning in warnings(run).await? {
        run.progress.warn(&format!("still refused: {warning}"));
    }
    Ok(())
}

async fn discard(run: &Run) -> Result<()> {
    for table in parked(run).await? {
        // Kept before they go, so that no end of this run hides it.
        run.warn(&format!("{} were given up: the target's rows may differ from the source's", told(&table)))
            .await?;
    }
    apply::discard_parked(&run.target, &run.id.slot()).await
}

/// What is still parked, for the result.
pub(super) async fn warnings(run: &Run) -> Result<Vec<String>> {
    let told = |table| {
        format!("{} are parked in pgstream.quarantine on the target, which refuses them", told(table))
    };
    Ok(parked(run).await?.iter().map(told).collect())
}

fn told(ParkedTable { table, rows, changes }: &ParkedTable) -> String {
    format!("table {}: {rows} rows with {changes} changes", table.plain())
}

/// Nothing ends for good while rows are parked.
///
/// # Errors
/// `Apply`, with the tables.
pub(super) async fn none_left(run: &Run) -> Result<()> {
    let parked = parked(run).await?;
    if parked.is_empty() {
        return Ok(());
    }
    let tables: Vec<String> = parked.iter().map(told).collect();
    Err(Error::new(ErrorKind::Apply, "cut over while rows are parked")
        .because(tables.join("; "))
        .hint(
            "pgstream.quarantine on the target tells which, and why. Mend what refuses them there and run again with \
             `--quarantine replay`, or give them up with `--quarantine discard`.",
        ))
}
