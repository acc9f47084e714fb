//! One engine at a time on a target database.
//!
//! Hazard: two engines that load or apply into the same tables double rows. The lock lives as long as the
//! session that took it; whoever holds it may end whatever a killed engine has left running.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::wire::Session;

/// The advisory lock of an engine at work; "pgstream" in ASCII.
const LOCK_KEY: i64 = 0x7067_7374_7265_616d;

/// How often, and how long apart, we look whether an earlier run's sessions are gone.
const LEFTOVER_LOOKS: u32 = 200;
const LEFTOVER_PAUSE: Duration = Duration::from_millis(100);

/// Takes the lock that lets only one engine work on this target database, for as long as `target` lives.
///
/// # Errors
/// `State` when another engine holds it.
pub(super) async fn lock(target: &Session) -> Result<()> {
    // A killed engine's session may take a moment to go; nothing but its end can be waited for.
    target
        .batch_execute("SET lock_timeout = '20s'")
        .await
        .map_err(|error| Error::from_postgres("set lock_timeout", error))?;
    let locked = target.query_one(&format!("SELECT pg_catalog.pg_advisory_lock({LOCK_KEY})"), &[]).await;
    target
        .batch_execute("SET lock_timeout = 0")
        .await
        .map_err(|error| Error::from_postgres("set lock_timeout", error))?;
    locked.map_err(|error| {
        let error = Error::from_postgres("lock the target database for this migration", error);
        if error.sqlstate() == Some(crate::pg::SqlState::LOCK_NOT_AVAILABLE) {
            return error.into_kind(ErrorKind::State).hint(
                "Another pgstream works on this target database (see pg_stat_activity); end it, or let it finish.",
            );
        }
        error
    })?;
    // Whatever a killed engine left running here would race with us: we hold the lock, so it is ownerless.
    // It is waited for, as a commit under way may still succeed.
    let doing = "end what an earlier run left behind";
    for _ in 0..LEFTOVER_LOOKS {
        let left = target
            .execute(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                  WHERE datname = pg_catalog.current_database() AND usename = current_user
                    AND application_name ~ '^pgstream (load|build|schema|apply)'
                    AND pid <> pg_catalog.pg_backend_pid()",
                &[],
            )
            .await
            .map_err(|error| Error::from_postgres(doing, error))?;
        if left == 0 {
            return Ok(());
        }
        tokio::time::sleep(LEFTOVER_PAUSE).await;
    }
    Err(Error::new(ErrorKind::Connect, doing)
        .hint("Sessions of an earlier run do not end on the target; see pg_stat_activity."))
}
