//! One look at one migration: facts, and no conclusions.

use std::path::PathBuf;

use crate::apply::{self, ParkedTable};
use crate::error::{Error, ErrorKind, Result};
use crate::migrate::build_watch;
use crate::migrate::lock::{self, Holder};
use crate::migrate::spooling;
use crate::migrate::state::MigrationId;
use crate::pg::{Conninfo, Lsn, PgTimestamp, SlotName};
use crate::replication::{SlotState, slot_state, wal_position};
use crate::telemetry::RunningBuild;
use crate::wire::{Session, SessionSettings};

/// What both servers said at about one moment.
#[derive(Debug, Clone)]
pub struct Look {
    /// The target.
    pub(super) target: TargetLook,
    /// The source, if it was named; or why it did not answer.
    pub(super) source: Option<Result<SourceLook, String>>,
}

impl Look {
    /// Whether both are at the same target database.
    #[must_use]
    pub fn is_of_same_database(&self, other: &Look) -> bool {
        self.target.database == other.target.database
    }
}

/// The migration's own records.
#[derive(Debug, Clone)]
pub(super) struct TargetLook {
    pub(super) database: String,
    pub(super) source_database: String,
    pub(super) id: MigrationId,
    /// A dump has no slot, and leaves nothing on its source to look at.
    pub(super) has_stream: bool,
    pub(super) phase: String,
    pub(super) started: String,
    pub(super) phase_since: String,
    pub(super) phase_seconds: f64,
    pub(super) engine: Option<Holder>,
    pub(super) error: Option<ErrorLook>,
    pub(super) copy: CopyLook,
    pub(super) builds: Vec<RunningBuild>,
    pub(super) progress: Option<ProgressLook>,
    pub(super) spool: Option<SpoolLook>,
    pub(super) parked: Vec<ParkedTable>,
}

/// Changes that the source was told are safe, and the target does not have.
#[derive(Debug, Clone)]
pub(super) struct SpoolLook {
    pub(super) host: String,
    pub(super) directory: PathBuf,
    /// On this machine's disk, if it is here.
    pub(super) bytes: Option<u64>,
}

/// The error kept last.
#[derive(Debug, Clone)]
pub(super) struct ErrorLook {
    pub(super) message: String,
    pub(super) at: String,
    pub(super) seconds_ago: f64,
    /// Whether anything was done since.
    pub(super) past: bool,
}

/// Sums over the ledger.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CopyLook {
    pub(super) tables: u64,
    pub(super) tables_done: u64,
    pub(super) rows: u64,
    pub(super) copy_bytes: u64,
    /// On the source's disk, as it was measured when the copy began.
    pub(super) bytes: u64,
    pub(super) bytes_done: u64,
    /// Of these, within the last [`WINDOW_SECONDS`] or since the copy began.
    pub(super) bytes_recent: u64,
}

/// The first lane's row.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProgressLook {
    pub(super) end_lsn: Lsn,
    /// When the newest transaction applied was committed, by the source's clock.
    pub(super) commit_time: Option<PgTimestamp>,
    pub(super) transactions: u64,
    pub(super) changes: u64,
}

/// The source and its slot.
#[derive(Debug, Clone)]
pub(super) struct SourceLook {
    pub(super) position: Lsn,
    pub(super) clock: PgTimestamp,
    pub(super) slot: Option<SlotState>,
}

/// Over which the rate of copying is taken.
pub(super) const WINDOW_SECONDS: f64 = 120.0;

impl TargetLook {
    pub(super) fn slot(&self) -> SlotName {
        self.id.slot()
    }
}

/// Reads the state; `None` when there is none.
pub(super) async fn look_at_target(session: &Session, database: &str) -> Result<Option<TargetLook>> {
    let doing = "read how far the migration is";
    let failed = |error| {
        let error = Error::from_postgres(doing, error);
        match error.sqlstate() {
            Some(state) if state.class() == "42" => error.into_kind(ErrorKind::State).hint(
                "The role must be the one that migrates, or the schema pgstream is of another version of pgstream.",
            ),
            _ => error,
        }
    };
    let exists = session
        .query_one("SELECT pg_catalog.to_regclass('pgstream.migration') IS NOT NULL", &[])
        .await
        .map_err(failed)?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    let Some(row) = session.query_opt(STATE, &[&WINDOW_SECONDS]).await.map_err(failed)? else {
        return Ok(None);
    };
    let count = |column: &str| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    let unreadable =
        || Error::new(ErrorKind::State, doing).because("a row of schema pgstream makes no sense");
    let mut copy = CopyLook {
        tables: count("tables"),
        tables_done: count("tables_done"),
        rows: count("rows"),
        copy_bytes: count("copy_bytes"),
        bytes: count("bytes"),
        bytes_done: count("bytes_done"),
        bytes_recent: count("bytes_recent"),
    };
    if copy.tables_done < copy.tables && session.version().major() >= 14 {
        copy.add_in_flight(session.query_one(IN_FLIGHT, &[]).await.map_err(failed)?.get(0));
    }
    let end_lsn: Option<&str> = row.get("end_lsn");
    let progress = match end_lsn {
        None => None,
        Some(end_lsn) => Some(ProgressLook {
            end_lsn: end_lsn.parse().map_err(|_| unreadable())?,
            commit_time: row.get::<_, Option<i64>>("commit_micros").map(PgTimestamp::from_micros),
            transactions: count("transactions"),
            changes: count("changes"),
        }),
    };
    let error = row.get::<_, Option<String>>("last_error").map(|message| ErrorLook {
        message,
        at: row.get("error_at"),
        seconds_ago: row.get("error_seconds"),
        past: row.get("error_past"),
    });
    let spool = spooling::found(session).await?.map(|found| SpoolLook {
        bytes: found.bytes(),
        host: found.host,
        directory: found.directory,
    });
    let id = MigrationId::read(row.get("id")).ok_or_else(unreadable)?;
    Ok(Some(TargetLook {
        database: database.to_owned(),
        source_database: row.get("source_database"),
        parked: apply::parked(session, &id.slot()).await?,
        id,
        has_stream: row.get("has_stream"),
        phase: row.get("phase"),
        started: row.get("started"),
        phase_since: row.get("phase_since"),
        phase_seconds: row.get("phase_seconds"),
        engine: lock::holder(session).await?,
        error,
        copy,
        builds: build_watch::running(session).await?,
        progress,
        spool,
    }))
}

impl CopyLook {
    /// What COPY has loaded and not yet committed. Its bytes are not those of the disk, but nearly.
    fn add_in_flight(&mut self, bytes: i64) {
        let bytes = u64::try_from(bytes).unwrap_or(0).min(self.bytes.saturating_sub(self.bytes_done));
        self.bytes_done += bytes;
        self.bytes_recent += bytes;
    }
}

/// Looks at the source's end of the stream.
pub(super) async fn look_at_source(
    source: &Conninfo,
    settings: &SessionSettings,
    slot: &SlotName,
) -> Result<SourceLook> {
    let session = Session::connect(source, settings).await?;
    let (position, clock) = wal_position(&session).await?;
    Ok(SourceLook { position, clock, slot: slot_state(&session, slot).await? })
}

const IN_FLIGHT: &str = "
SELECT coalesce(pg_catalog.sum(bytes_processed), 0)::pg_catalog.int8 FROM pg_catalog.pg_stat_progress_copy
 WHERE datname = pg_catalog.current_database() AND command = 'COPY FROM'";

/// One row. A part whose end is open counts no blocks: it is the last and shortest.
const STATE: &str = "
WITH parts AS (
  SELECT schema_name, table_name, sum(rows) AS rows, sum(bytes) AS bytes,
         sum(coalesce(end_block, first_block) - first_block) AS blocks,
         coalesce(sum(coalesce(end_block, first_block) - first_block)
                    FILTER (WHERE copied_at > clock_timestamp() - make_interval(secs => $1::float8)), 0) AS recent
    FROM pgstream.copied_part GROUP BY schema_name, table_name
), tables AS (
  SELECT t.state, t.source_bytes, t.copied_at, p.schema_name IS NOT NULL AS in_parts,
         CASE t.state WHEN 'copied' THEN t.rows WHEN 'copying' THEN coalesce(p.rows, 0) ELSE 0 END AS rows,
         CASE t.state WHEN 'copied' THEN t.bytes WHEN 'copying' THEN coalesce(p.bytes, 0) ELSE 0 END AS bytes,
         least(coalesce(p.blocks, 0) * b.size, t.source_bytes) AS part_bytes,
         least(coalesce(p.recent, 0) * b.size, t.source_bytes) AS recent_bytes
    FROM pgstream.copied_table t LEFT JOIN parts p USING (schema_name, table_name),
         (SELECT current_setting('block_size')::int8) b (size)
), copy AS (
  SELECT count(*) AS tables, count(*) FILTER (WHERE state = 'copied') AS tables_done,
         coalesce(sum(rows), 0)::int8 AS rows, coalesce(sum(bytes), 0)::int8 AS copy_bytes,
         coalesce(sum(source_bytes), 0)::int8 AS bytes,
         coalesce(sum(CASE state WHEN 'copied' THEN source_bytes WHEN 'copying' THEN part_bytes ELSE 0 END), 0)::int8
           AS bytes_done,
         coalesce(sum(CASE WHEN state = 'pending' THEN 0 WHEN in_parts THEN recent_bytes
                           WHEN copied_at > clock_timestamp() - make_interval(secs => $1::float8) THEN source_bytes
                           ELSE 0 END), 0)::int8 AS bytes_recent,
         max(copied_at) AS copied_at
    FROM tables
)
SELECT m.id, m.source_database, m.phase, m.method <> 'dump' AS has_stream,
       to_char(m.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS started,
       to_char(m.phase_entered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS phase_since,
       extract(epoch FROM clock_timestamp() - m.phase_entered_at)::float8 AS phase_seconds,
       m.last_error,
       to_char(m.last_error_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS error_at,
       extract(epoch FROM clock_timestamp() - m.last_error_at)::float8 AS error_seconds,
       coalesce(m.last_error_at < greatest(m.phase_entered_at, p.updated_at, c.copied_at), false) AS error_past,
       c.tables, c.tables_done, c.rows, c.copy_bytes, c.bytes, c.bytes_done, c.bytes_recent,
       p.end_lsn::text AS end_lsn,
       (extract(epoch FROM p.source_commit_time - '2000-01-01 00:00:00+00') * 1000000)::int8 AS commit_micros,
       coalesce(p.transactions, 0) AS transactions, coalesce(p.changes, 0) AS changes
  FROM pgstream.migration m CROSS JOIN copy c
  LEFT JOIN LATERAL (
    SELECT (array_agg(end_lsn ORDER BY end_lsn))[1] AS end_lsn, min(source_commit_time) AS source_commit_time,
           max(updated_at) AS updated_at, sum(transactions)::int8 AS transactions, sum(changes)::int8 AS changes
      FROM pgstream.progress WHERE slot = 'pgstream_' || m.id) p ON true";
