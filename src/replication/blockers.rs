//! Who keeps slot creation waiting.
//!
//! Hazard: slot creation waits for every transaction of the cluster that has written, in any database, and
//! for prepared ones; `statement_timeout` does not bound that (P12).

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::wire::Session;

/// A transaction that must end before a slot can become consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// A session that has written and not committed.
    Session {
        /// Its backend.
        pid: i32,
        /// Its database.
        database: String,
        /// Its role.
        user: String,
        /// Its `application_name`.
        application: String,
        /// How long its transaction has been open.
        age: Duration,
    },
    /// A prepared transaction.
    Prepared {
        /// Its global identifier.
        gid: String,
        /// Its database.
        database: String,
        /// How long ago it was prepared.
        age: Duration,
    },
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocker::Session { pid, database, user, application, age } => write!(
                f,
                "pid {pid}: {user} in database {database} ({application}), writing since {} s",
                age.as_secs()
            ),
            Blocker::Prepared { gid, database, age } => {
                write!(f, "prepared transaction {gid} in database {database}, since {} s", age.as_secs())
            }
        }
    }
}

/// Lists them, longest first.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn slot_blockers(source: &Session) -> Result<Vec<Blocker>> {
    let failed = |error| Error::from_postgres("list the transactions that delay slot creation", error);
    let seconds = |value: f64| Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default();
    let sessions = source
        .query(
            "SELECT pid, coalesce(datname, ''), coalesce(usename, ''), coalesce(application_name, ''),
                    coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - xact_start), 0)::float8
               FROM pg_catalog.pg_stat_activity
              WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
              ORDER BY xact_start LIMIT 100",
            &[],
        )
        .await
        .map_err(failed)?;
    let prepared = source
        .query(
            "SELECT gid, database::text, coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - prepared), 0)::float8
               FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 100",
            &[],
        )
        .await
        .map_err(failed)?;
    let sessions = sessions.iter().map(|row| Blocker::Session {
        pid: row.get(0),
        database: row.get::<_, &str>(1).to_owned(),
        user: row.get::<_, &str>(2).to_owned(),
        application: row.get(3),
        age: seconds(row.get(4)),
    });
    let prepared = prepared.iter().map(|row| Blocker::Prepared {
        gid: row.get(0),
        database: row.get(1),
        age: seconds(row.get(2)),
    });
    Ok(sessions.chain(prepared).collect())
}
