//! Collects statistics on the target, for a database without them is slow on its first morning (P83).
//!
//! Hazard: ANALYZE computes what expression indexes hold, and ends at the first table whose function fails: one
//! that relies on a search_path, for instance (P58). Missing statistics make the target slow, not wrong, so
//! they are named in the result and end nothing.

use super::cutover::source_search_path;
use super::run::Run;
use crate::catalog::{self, TableKind};
use crate::error::{Error, Result, describe};
use crate::wire::{Session, SessionSettings};

/// Analyzes everything that it can.
pub(super) async fn analyze(run: &Run) -> Result<()> {
    run.progress.note("collecting statistics on the target");
    let settings = SessionSettings::role("analyze")
        .set("client_min_messages", "error")
        .set("search_path", source_search_path(&run.source).await?);
    let session = Session::connect(&run.options.target, &settings).await?;
    // Alone in its query: several would be one transaction, with a lock on every table until its end (P88).
    let Err(error) = session.batch_execute("ANALYZE").await else { return Ok(()) };
    lost(&session, error, "analyze the target")?;
    for table in catalog::load(&run.target).await?.tables {
        // A parent is analyzed together with its partitions.
        if table.is_partition || table.kind == TableKind::Foreign {
            continue;
        }
        let Err(error) = session.batch_execute(&format!("ANALYZE {}", table.name)).await else { continue };
        let error = lost(&session, error, &format!("analyze {}", table.name.plain()))?;
        run.warn(&format!(
            "{}: it has no statistics on the target; if a function of its indexes relies on search_path, \
             ALTER FUNCTION … SET search_path, then ANALYZE",
            describe(&error)
        ))
        .await?;
    }
    Ok(())
}

/// The error, unless it is the session's end.
fn lost(session: &Session, error: tokio_postgres::Error, doing: &str) -> Result<Error> {
    let error = Error::from_postgres(doing, error);
    if session.is_closed() { Err(error) } else { Ok(error) }
}
