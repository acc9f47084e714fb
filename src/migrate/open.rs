//! Opens the source: identities, publications, then the slot with its snapshot, in that order (P10).
//!
//! Hazard: this is where the source could be harmed. Every object is journalled first; nothing is
//! published whose UPDATE would then fail (P06); every lock has a timeout (P26); and the wait for running
//! writers is bounded, shown, and leaves nothing behind when it is given up (P12).

use std::time::{Duration, Instant};

use super::run::Run;
use super::selection::Selection;
use super::state::{self, Made};
use crate::bulk::Keeper;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, SlotName, SqlState};
use crate::replication::{
    CreatedSlot, create_publication, create_slot, create_temporary_slot, drop_publication, drop_slot,
    slot_blockers,
};
use crate::wire::ConnectionSettings;

/// A snapshot that is kept, and the position it shows.
#[derive(Debug)]
pub(super) struct OpenSnapshot {
    pub(super) keeper: Keeper,
    pub(super) consistent_point: Lsn,
}

/// Sets identities and creates the publications; what an interrupted attempt left is removed first.
pub(super) async fn publish(run: &Run, selection: &Selection) -> Result<()> {
    let timeout = format!("SET lock_timeout = '{}ms'", run.options.lock_timeout.as_millis());
    let failed = |error| Error::from_postgres("prepare the publication", error);
    run.source.batch_execute(&timeout).await.map_err(failed)?;
    for made in &selection.made_full {
        let Made::ReplicaIdentity { table, .. } = made else { continue };
        state::journal(&run.target, made).await?;
        run.source.batch_execute(&format!("ALTER TABLE ONLY {table} REPLICA IDENTITY FULL")).await.map_err(
            |error| Error::from_postgres(format!("set REPLICA IDENTITY FULL on {}", table.plain()), error),
        )?;
    }
    for publication in selection.publications(&run.id) {
        state::journal(&run.target, &Made::Publication(publication.name.clone())).await?;
        drop_publication(&run.source, &publication.name).await?;
        create_publication(&run.source, &publication, run.source_version).await?;
    }
    run.source.batch_execute("SET lock_timeout = 0").await.map_err(failed)
}

/// Creates the slot of the stream, and keeps its snapshot.
pub(super) async fn open_slot(run: &Run) -> Result<OpenSnapshot> {
    let name = run.id.slot();
    state::journal(&run.target, &Made::Slot(name.clone())).await?;
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

/// How long one try waits before it gives way, so that those queued behind it get a turn.
const TRY: Duration = Duration::from_secs(10);

async fn patiently(run: &Run, name: &SlotName, lifetime: Lifetime) -> Result<CreatedSlot> {
    let deadline = Instant::now() + run.options.slot_wait;
    loop {
        let wait =
            TRY.min(deadline.saturating_duration_since(Instant::now())).max(Duration::from_millis(100));
        let settings =
            ConnectionSettings::replication("slot").set("lock_timeout", wait.as_millis().to_string());
        let created = async {
            match lifetime {
                Lifetime::Permanent => create_slot(&run.options.source, &settings, name).await,
                Lifetime::Temporary => create_temporary_slot(&run.options.source, &settings, name).await,
            }
        };
        let error = match created.await {
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
    }
}
