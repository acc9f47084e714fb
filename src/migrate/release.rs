//! Undoes what we made on the source, by the journal.
//!
//! Hazard: a slot left behind fills the source's disk, a publication left behind can make its UPDATEs fail
//! later (P30). What the journal names is undone whether or not it was ever made, so this can run after a
//! crash anywhere, and twice.

use super::state::{self, Made};
use crate::error::Result;
use crate::pg::quote_literal;
use crate::replication::{drop_publication, drop_slot};
use crate::wire::Session;

/// Undoes every journalled change to the source, the slot first: what it pins hurts most.
///
/// # Errors
/// The first thing that could not be undone; everything that could be was.
pub async fn release_source(source: &Session, target: &Session) -> Result<()> {
    let mut made = state::journalled(target).await?;
    made.sort_by_key(|made| match made {
        Made::Slot(_) => 0,
        Made::Publication(_) => 1,
        Made::ReplicaIdentity { .. } => 2,
    });
    let mut first_error = None;
    for made in made {
        match undo(source, &made).await {
            Ok(()) => state::forget(target, &made).await?,
            Err(error) => {
                tracing::error!(?made, error = %crate::error::describe(&error), "could not be undone on the source");
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn undo(source: &Session, made: &Made) -> Result<()> {
    match made {
        Made::Slot(name) => drop_slot(source, name).await,
        Made::Publication(name) => drop_publication(source, name).await,
        Made::ReplicaIdentity { table, before } => {
            // The table may have been dropped meanwhile; then there is nothing to set back.
            let exists =
                format!("SELECT pg_catalog.to_regclass({}) IS NOT NULL", quote_literal(&table.to_string()));
            let failed = |error| {
                crate::error::Error::from_postgres(
                    format!("set the replica identity of {} back to {before}", table.plain()),
                    error,
                )
            };
            if source.query_one(&exists, &[]).await.map_err(failed)?.get(0) {
                source
                    .batch_execute(&format!("ALTER TABLE ONLY {table} REPLICA IDENTITY {before}"))
                    .await
                    .map_err(failed)?;
            }
            Ok(())
        }
    }
}
