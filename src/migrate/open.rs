//! Opens the source: identities, publications, then the slot with its snapshot, in that order (P10).
//!
//! Hazard: this is where the source could be harmed. Every object is journalled first; nothing is
//! published whose UPDATE would then fail (P06); every lock has a timeout (P26); and the wait for running
//! writers is bounded, shown, and leaves nothing behind when it is given up (P12).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::databases;
use super::mark::Mark;
use super::release::set_replica_identity;
use super::run::Run;
use super::selection::Selection;
use super::state::Made;
use crate::bulk::Keeper;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, QualifiedName, SlotName, SqlState};
use crate::replication::{
    CreatedSlot, create_slot, create_temporary_slot, declare_publication, drop_slot, fill_publication,
    published_tables, publisher, slot_blockers,
};
use crate::wire::ConnectionSettings;

/// A snapshot that is kept, and the position it shows.
#[derive(Debug)]
pub(super) struct OpenSnapshot {
    pub(super) keeper: Keeper,
    pub(super) consistent_point: Lsn,
}

/// Sets identities and creates the publications; what an interrupted attempt left is removed first.
///
/// Empty publications come first: their comment tells what is about to be changed, should the target and its
/// journal be lost.
pub(super) async fn publish(run: &Run, selection: &Selection) -> Result<()> {
    let failed = |error| Error::from_postgres("prepare the publication", error);
    let publisher = publisher(&run.source, &selection.moved).await?;
    let publications = selection.publications(&run.id);
    let mark = mark(run, selection).await?;
    for publication in &publications {
        run.journal(&Made::Publication(publication.name.clone())).await?;
        declare_publication(&run.source, publication, run.source_version, publisher, &mark).await?;
    }
    for made in &selection.made_full {
        let Made::ReplicaIdentity { table, .. } = made else { continue };
        run.journal(made).await?;
        set_replica_identity(&run.source, table, "FULL").await?;
    }
    let timeout = format!("SET lock_timeout = '{}ms'", run.options.lock_timeout.as_millis());
    run.source.batch_execute(&timeout).await.map_err(failed)?;
    for publication in &publications {
        let (version, moved) = (run.source_version, &selection.moved);
        fill_publication(&run.source, publication, version, publisher, &mark, moved).await?;
    }
    run.source.batch_execute("SET lock_timeout = 0").await.map_err(failed)
}

/// What the publications bear.
async fn mark(run: &Run, selection: &Selection) -> Result<String> {
    let system = databases::system(&run.target).await?;
    let target = run.options.target.database();
    Ok(Mark::new(run.id.clone(), system, target, &selection.made_full).comment())
}

/// What our publications publish, partitions by their own names.
pub(super) async fn published(run: &Run) -> Result<HashSet<QualifiedName>> {
    published_tables(&run.source, &run.publications().await?).await
}

/// No moved table may have left our publications while it exists: what changes in it since is in no stream
/// (P27). One that was dropped is named in the result.
///
/// # Errors
/// `Drift`, with the tables' names.
pub(super) async fn still_published(run: &Run, moved: &[QualifiedName]) -> Result<()> {
    let published = published(run).await?;
    let missing: Vec<&QualifiedName> = moved.iter().filter(|name| !published.contains(name)).collect();
    let mut replaced = Vec::new();
    for name in missing {
        let row = run
            .source
            .query_one("SELECT pg_catalog.to_regclass($1::text) IS NOT NULL", &[&name.to_string()])
            .await
            .map_err(|error| Error::from_postgres(format!("look for table {}", name.plain()), error))?;
        if row.get(0) {
            replaced.push(name.plain());
        } else {
            run.warn(&format!(
                "{}: there is no table of that name on the source any more; the target has its rows as of when it \
                 was dropped or renamed",
                name.plain()
            ))
            .await?;
        }
    }
    if replaced.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Drift, format!("find every table in our publications: {}", replaced.join(", "))).hint(
        "On the source these were replaced or detached after the migration began, and changes to them are lost. \
         Empty the target database and begin anew.",
    ))
}

/// Creates the slot of the stream, and keeps its snapshot.
pub(super) async fn open_slot(run: &Run) -> Result<OpenSnapshot> {
    let name = run.id.slot();
    run.journal(&Made::Slot(name.clone())).await?;
    drop_slot(&run.source, &name).await?;
    let slot = patiently(run, &name, Lifetime::Permanent).await?;
    keep(run, slot).await
}

/// Takes a later snapshot, for tables that are still to be copied; its slot is gone with its connection.
pub(super) async fn later_snapshot(run: &Run) -> Result<OpenSnapshot> {
    let name = run.id.snapshot_slot();
    drop_slot(&run.source, &name).await?;
    let slot = patiently(run, &name, Lifetime::Temporary).await?;
    keep(run, slot).await
}

#[derive(Clone, Copy)]
enum Lifetime {
    Permanent,
    Temporary,
}

async fn keep(run: &Run, slot: CreatedSlot) -> Result<OpenSnapshot> {
    let keeper = Keeper::adopt(&run.options.source, &slot.snapshot).await?;
    // From here on the keeper alone holds the snapshot, and the replication connection may go.
    drop(slot.connection);
    tracing::info!(lsn = %slot.consistent_point, "snapshot taken");
    Ok(OpenSnapshot { keeper, consistent_point: slot.consistent_point })
}

/// How long the first try waits: the operator wants to hear soon of who is in the way. Each further one waits
/// twice as long, as a try that gives way begins from nothing.
const TRY_MIN: Duration = Duration::from_secs(1);

async fn patiently(run: &Run, name: &SlotName, lifetime: Lifetime) -> Result<CreatedSlot> {
    let deadline = Instant::now() + run.options.slot_wait;
    let mut wait = TRY_MIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let error = match create(run, name, lifetime, wait.min(left)).await {
            Ok(slot) => return Ok(slot),
            Err(error) if error.sqlstate() == Some(SqlState::LOCK_NOT_AVAILABLE) => error,
            Err(error) => return Err(error),
        };
        let blockers = slot_blockers(&run.source).await?;
        let list = blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Slot, format!("create replication slot {name}"))
                .hint(format!(
                    "Slot creation waits for every transaction that has written, in any database. End these, or \
                     wait for them with a longer --slot-wait:\n  {list}"
                ))
                .because(error));
        }
        run.progress.note(&format!(
            "waiting for transactions that have written before the slot can start:\n  {list}"
        ));
        wait *= 2;
    }
}

async fn create(run: &Run, name: &SlotName, lifetime: Lifetime, wait: Duration) -> Result<CreatedSlot> {
    let settings = ConnectionSettings::replication("slot").set("lock_timeout", wait.as_millis().to_string());
    match lifetime {
        Lifetime::Permanent => create_slot(&run.options.source, &settings, name).await,
        Lifetime::Temporary => create_temporary_slot(&run.options.source, &settings, name).await,
    }
}
