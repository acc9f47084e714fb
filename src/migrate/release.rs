//! Undoes what we made on the source, by the journal.
//!
//! Hazard: a slot left behind fills the source's disk, a publication left behind can make its UPDATEs fail
//! later (P30). What the journal names is undone whether or not it was ever made, so this can run after a
//! crash anywhere, and twice.

use super::state::{self, Made};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{QualifiedName, SqlState, quote_literal};
use crate::replication::{drop_publication, drop_slot};
use crate::wire::Session;

/// Undoes every journalled change to the source, and strikes it off the journal.
///
/// # Errors
/// The first thing that could not be undone; everything that could be was.
pub async fn release_source(source: &Session, target: &Session) -> Result<()> {
    let made = state::journalled(target).await?;
    let undone = undo_all(source, made).await;
    for made in &undone.done {
        state::forget(target, made).await?;
    }
    undone.failure.map_or(Ok(()), Err)
}

/// What could be undone, and the first thing that could not.
pub(super) struct Undone {
    pub(super) done: Vec<Made>,
    pub(super) failure: Option<Error>,
}

/// Undoes what is listed, the slot first: what it pins hurts most. Goes on past what cannot be undone.
pub(super) async fn undo_all(source: &Session, mut made: Vec<Made>) -> Undone {
    made.sort_by_key(|made| match made {
        Made::Slot(_) => 0,
        Made::Publication(_) => 1,
        Made::ReplicaIdentity { .. } => 2,
    });
    let mut undone = Undone { done: Vec::new(), failure: None };
    for made in made {
        // Still published, a table whose identity is set back refuses the source's own UPDATE (P06).
        if undone.failure.is_some() && matches!(made, Made::ReplicaIdentity { .. }) {
            continue;
        }
        match undo(source, &made).await {
            Ok(()) => undone.done.push(made),
            Err(error) => {
                tracing::error!(?made, error = %describe(&error), "could not be undone on the source");
                undone.failure.get_or_insert(error);
            }
        }
    }
    undone
}

async fn undo(source: &Session, made: &Made) -> Result<()> {
    match made {
        Made::Slot(name) => drop_slot(source, name).await,
        Made::Publication(name) => drop_publication(source, name).await,
        Made::ReplicaIdentity { table, before } => {
            // The table may have been dropped meanwhile; then there is nothing to set back.
            // Somebody may have given it another identity since; that one is not ours to undo.
            let exists = format!(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_class
                   WHERE oid = pg_catalog.to_regclass({}) AND relreplident = 'f')",
                quote_literal(&table.to_string())
            );
            let failed = |error| Error::from_postgres(format!("look for table {}", table.plain()), error);
            if source.query_one(&exists, &[]).await.map_err(failed)?.get(0) {
                set_replica_identity(source, table, before).await?;
            }
            Ok(())
        }
    }
}

/// How long one try may queue for ACCESS EXCLUSIVE: readers queue behind us for as long (P26).
const LOCK_TIMEOUT: &str = "1s";
/// How often, and how far apart, it is tried.
const LOCK_TRIES: u32 = 12;
const LOCK_PAUSE: Duration = Duration::from_secs(5);

/// Sets a table's replica identity: `FULL`, `DEFAULT`, `USING INDEX "i"`.
///
/// # Errors
/// `Sql`, with the sessions in the way, when the lock was not to be had.
pub(super) async fn set_replica_identity(
    source: &Session,
    table: &QualifiedName,
    identity: &str,
) -> Result<()> {
    let doing = format!("set the replica identity of {} to {identity}", table.plain());
    // Several statements in one query are one transaction, so the timeout is the statement's own.
    let alter = format!(
        "SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; ALTER TABLE ONLY {table} REPLICA IDENTITY {identity}"
    );
    for attempt in 1..=LOCK_TRIES {
        let Err(error) = source.batch_execute(&alter).await else { return Ok(()) };
        let error = Error::from_postgres(doing.as_str(), error);
        if error.sqlstate() != Some(SqlState::LOCK_NOT_AVAILABLE) {
            return Err(error);
        }
        if attempt == LOCK_TRIES {
            let holders = lock_holders(source, table).await?;
            return Err(error.into_kind(ErrorKind::Sql).hint(format!(
                "These sessions hold locks on the table; end them, or run again when they are done:\n  {}",
                holders.join("\n  ")
            )));
        }
        // Nothing to wait for but others' locks, and waiting in their queue would stop readers.
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    unreachable!("the last attempt returns")
}

async fn lock_holders(source: &Session, table: &QualifiedName) -> Result<Vec<String>> {
    let rows = source
        .query(
            "SELECT DISTINCT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.state, '')
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
              WHERE l.relation = pg_catalog.to_regclass($1) AND l.granted AND a.pid <> pg_catalog.pg_backend_pid()
              LIMIT 20",
            &[&table.to_string()],
        )
        .await
        .map_err(|error| Error::from_postgres("list who locks a table", error))?;
    Ok(rows
        .iter()
        .map(|row| {
            let (pid, user, application, state): (i32, &str, &str, &str) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            format!("pid {pid}: {user} ({application}), {state}")
        })
        .collect())
}
