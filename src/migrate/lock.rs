//! One engine at a time on a target database.
//!
//! Hazard: two engines that load or apply into the same tables double rows. The lock lives as long as the
//! session that took it; whoever holds it may end whatever a killed engine has left running.

use std::fmt;
use std::time::{Duration, Instant};

use crate::bulk;
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
    end_leftovers(target).await
}

/// Ends what a killed engine left running here, which would race with us: whoever holds the lock knows that it
/// is ownerless. It is waited for, as a commit under way may still succeed.
async fn end_leftovers(target: &Session) -> Result<()> {
    let doing = "end what an earlier run left behind";
    // Other processes that copied with it would only come back.
    bulk::shut_wave(target).await?;
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

/// Takes the lock without queueing for it, if it becomes free within `patience`: a killed engine's session may
/// take a moment to go.
///
/// # Errors
/// `Connect` or `Sql`.
pub(super) async fn lock_soon(target: &Session, patience: Duration) -> Result<Taken> {
    let deadline = Instant::now() + patience;
    loop {
        let row = target
            .query_one(&format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY})"), &[])
            .await
            .map_err(|error| Error::from_postgres("lock the target database", error))?;
        if row.get(0) {
            end_leftovers(target).await?;
            return Ok(Taken::ByUs);
        }
        if Instant::now() > deadline {
            return Ok(Taken::By(holder(target).await?));
        }
        tokio::time::sleep(LEFTOVER_PAUSE).await;
    }
}

/// Who has the lock after we have tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// We have it now.
    ByUs,
    /// An engine is at work; `None` when it has gone just now.
    By(Option<Holder>),
}

/// The session of an engine at work.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// The server's process.
    pub pid: i32,
    /// `application_name`.
    pub application: String,
    /// Where it comes from; `None` for this machine's socket, or where we may not know.
    pub address: Option<String>,
    /// Since when it is connected, as the server writes it.
    pub since: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holder { pid, application, address, since } = self;
        write!(f, "pid {pid} ({application})")?;
        if let Some(address) = address {
            write!(f, " from {address}")?;
        }
        match since {
            Some(since) => write!(f, " since {since}"),
            None => Ok(()),
        }
    }
}

/// Who holds the lock of this target database now. Takes no lock itself.
///
/// # Errors
/// `Connect` or `Sql`.
pub(super) async fn holder(target: &Session) -> Result<Option<Holder>> {
    let row = target
        .query_opt(
            &format!(
                "SELECT a.pid, coalesce(a.application_name, ''), pg_catalog.host(a.client_addr),
                        pg_catalog.to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')
                   FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
                  WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                    AND l.classid::bigint = {} AND l.objid::bigint = {} LIMIT 1",
                LOCK_KEY >> 32,
                LOCK_KEY & 0xFFFF_FFFF
            ),
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("look who works on the target", error))?;
    Ok(row.map(|row| Holder {
        pid: row.get(0),
        application: row.get(1),
        address: row.get(2),
        since: row.get(3),
    }))
}
