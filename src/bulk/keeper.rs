//! Keeps an exported snapshot alive while copy workers come and go.
//!
//! Hazard: the snapshot that slot creation exports dies with the next command on the replication
//! connection (P13). A plain session imports it and exports it again under a second name, which stays good
//! for as long as this session's transaction does; so the session does nothing else, ever.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, quote_literal};
use crate::wire::{Session, SessionSettings};

/// Whatever writes takes a transaction id, and ids do not come again: where the same ids have ended and are
/// running, nothing has been written. Two things can make ids come again, a failover to a server that lagged, which
/// begins another timeline, and a crash that loses commits not yet flushed: where there may be some, no name.
const CONTENT: &str = "
SELECT CASE
    WHEN pg_catalog.pg_is_in_recovery() THEN NULL
    WHEN pg_catalog.pg_current_wal_insert_lsn() <= pg_catalog.pg_current_wal_flush_lsn()
    THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)
         || ' ' || pg_catalog.txid_current_snapshot()::pg_catalog.text
    END";

/// A session whose only work is to stay: the snapshot lives as long as this value.
#[derive(Debug)]
pub struct Keeper {
    session: Session,
    snapshot: String,
    content: Option<String>,
    since: Instant,
}

impl Keeper {
    /// Imports `snapshot` and exports it again. The exporting connection must not be used meanwhile; after
    /// this it is free.
    ///
    /// # Errors
    /// `Snapshot` if the snapshot is gone already.
    pub async fn adopt(source: &Conninfo, snapshot: &str) -> Result<Keeper> {
        let session = Session::connect(source, &SessionSettings::role("keeper")).await?;
        let failed = |error| {
            let error = Error::from_postgres("import it", error);
            Error::new(ErrorKind::Snapshot, "take over the slot's snapshot").because(error)
        };
        let import = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            quote_literal(snapshot)
        );
        session.batch_execute(&import).await.map_err(failed)?;
        let row = session.query_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await.map_err(failed)?;
        Ok(Keeper { snapshot: row.get(0), session, content: None, since: Instant::now() })
    }

    /// Takes a snapshot of its own, of this moment; no position in the stream belongs to it.
    ///
    /// # Errors
    /// `Connect` or `Sql`.
    pub async fn open(source: &Conninfo) -> Result<Keeper> {
        let session = Session::connect(source, &SessionSettings::role("keeper")).await?;
        let failed = |error| Error::from_postgres("take a snapshot", error);
        session
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SAVEPOINT content")
            .await
            .map_err(failed)?;
        let content = match session.query_one(CONTENT, &[]).await {
            Ok(row) => row.get(0),
            // A service may keep these functions to itself.
            Err(_) => None,
        };
        session.batch_execute("ROLLBACK TO SAVEPOINT content; RELEASE content").await.map_err(failed)?;
        let row = session.query_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await.map_err(failed)?;
        Ok(Keeper { snapshot: row.get(0), session, content, since: Instant::now() })
    }

    /// Names what the snapshot shows: two snapshots of one server with the same name show the same committed
    /// rows, whatever happened to the server in between. `None` where that cannot be proved.
    #[must_use]
    pub fn content(&self) -> Option<&str> {
        self.content.as_deref()
    }

    /// The name under which workers import it.
    #[must_use]
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// How long the source's row versions have been held back.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the session, and with it the snapshot, is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.session.is_closed()
    }
}
