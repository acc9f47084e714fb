//! Ends apply sessions that an applier has left on the target.
//!
//! Hazard: an applier that is given up while the target keeps it waiting, or whose process was killed, leaves a server
//! process that goes on when the lock is released. What it holds would stand in the way of the next applier, and a
//! COMMIT that was on its way would move the progress row under it. We hold the lock on the target database: whatever
//! is at work there under that name is nobody's any more.

use std::time::{Duration, Instant};

use super::run::Run;
use crate::error::{Error, Result, describe};
use crate::wire::Session;

/// How long they may take to end; one that does not is met at the progress row.
const WAIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

const END: &str = "
SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
 WHERE datname = pg_catalog.current_database() AND application_name LIKE 'pgstream apply %' AND state <> 'idle'";

/// Ends them, and returns when they are gone.
pub(super) async fn end_apply_sessions(run: &Run) {
    let deadline = Instant::now() + WAIT;
    loop {
        match end(&run.target).await {
            Ok(0) => return,
            Ok(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
            Ok(left) => return tracing::warn!(left, "apply sessions that were given up are still at work"),
            // A server that keeps its sessions to itself.
            Err(error) => {
                return tracing::debug!(error = %describe(&error), "earlier apply sessions cannot be ended");
            }
        }
    }
}

async fn end(target: &Session) -> Result<i64> {
    let failed = |error| Error::from_postgres("end earlier apply sessions", error);
    Ok(target.query_one(END, &[]).await.map_err(failed)?.get(0))
}
