//! Replication slots: made with an exported snapshot, found again, and removed.
//!
//! Hazard: a slot pins WAL and the catalog horizon from the moment it exists until it is dropped, also when
//! we are dead (P14, P16, P30). It is therefore named in the journal before it is created here.

use crate::error::{Error, ErrorKind, Recovery, Result};
use crate::pg::{Conninfo, Lsn, PgTimestamp, SlotName, SystemIdentifier, Timeline};
use crate::wire::{Connection, ConnectionSettings, Row, Session};

/// Which cluster a replication connection talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceIdentity {
    /// The cluster.
    pub system: SystemIdentifier,
    /// Its timeline: another one after a promotion (P23).
    pub timeline: Timeline,
    /// The end of its flushed WAL.
    pub position: Lsn,
}

/// A slot that was just created, with the snapshot that shows the database exactly as of `consistent_point`.
#[derive(Debug)]
pub struct CreatedSlot {
    /// Transactions whose commit record starts at or after this are in the stream, all others in the snapshot.
    pub consistent_point: Lsn,
    /// The exported snapshot. It dies with the next command on `connection`, or with the connection (P13).
    pub snapshot: String,
    /// The replication connection that exports it; a temporary slot ends with it, too.
    pub connection: Connection,
}

/// A slot as the server reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// Whether a walsender uses it now.
    pub is_active: bool,
    /// Where the stream resumes at the earliest; an end position.
    pub confirmed_flush: Option<Lsn>,
    /// WAL kept back for it, in bytes.
    pub retained_bytes: u64,
    /// WAL that may still be written before the slot is lost; `None` when unlimited or unknown (13+).
    pub safe_bytes: Option<u64>,
    /// Whether its WAL is already gone (13+, P16).
    pub is_lost: bool,
}

/// Asks a replication connection who it talks to.
///
/// # Errors
/// `Connect`, or `Protocol` if the answer lacks a field.
pub async fn identify(connection: &mut Connection) -> Result<SourceIdentity> {
    let rows = connection.query("IDENTIFY_SYSTEM").await?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Protocol, "identify the source"))?;
    // By name: some servers send the columns in another order (P32).
    Ok(SourceIdentity {
        system: SystemIdentifier::new(field(row, "systemid")?),
        timeline: Timeline::new(field(row, "timeline")?),
        position: field(row, "xlogpos")?,
    })
}

/// Creates the slot that the stream will run from.
///
/// `settings` carries the `lock_timeout` that bounds the wait for running writers (P12).
///
/// # Errors
/// `Slot`; with SQLSTATE 55P03 when the wait was too long, and then nothing is left behind.
pub async fn create_slot(
    source: &Conninfo,
    settings: &ConnectionSettings,
    name: &SlotName,
) -> Result<CreatedSlot> {
    create(
        source,
        settings,
        &format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput EXPORT_SNAPSHOT"),
        name,
    )
    .await
}

/// Creates a slot that lives only as long as the connection: the way to a later snapshot whose LSN is known.
///
/// # Errors
/// As [`create_slot`].
pub async fn create_temporary_slot(
    source: &Conninfo,
    settings: &ConnectionSettings,
    name: &SlotName,
) -> Result<CreatedSlot> {
    let command = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
    create(source, settings, &command, name).await
}

async fn create(
    source: &Conninfo,
    settings: &ConnectionSettings,
    command: &str,
    name: &SlotName,
) -> Result<CreatedSlot> {
    let mut connection = Connection::connect(source, settings).await?;
    let rows = connection.query(command).await.map_err(|error| slot_refused(name, error))?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Protocol, format!("create slot {name}")))?;
    Ok(CreatedSlot {
        consistent_point: field(row, "consistent_point")?,
        snapshot: field(row, "snapshot_name")?,
        connection,
    })
}

fn slot_refused(name: &SlotName, error: Error) -> Error {
    use crate::pg::SqlState;

    let hint = match error.sqlstate() {
        Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED) => {
            "All replication slots are in use: drop one that nobody needs (select slot_name, active from \
             pg_replication_slots) or raise max_replication_slots on the source."
        }
        Some(SqlState::LOCK_NOT_AVAILABLE) => {
            "Transactions that write have been open for too long; end them, or run again when they are done."
        }
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
            "Give the source role the right to replicate: ALTER ROLE … REPLICATION (on RDS: GRANT rds_replication)."
        }
        _ => "See the server's message; running again is safe.",
    };
    let doing = format!("create replication slot {name}");
    match error.recovery() {
        // A broken connection is no verdict on the slot; a lock that was not had in time is the caller's to judge.
        Recovery::Retry if error.sqlstate() != Some(SqlState::LOCK_NOT_AVAILABLE) => {
            Error::new(error.kind(), doing).because(error)
        }
        _ => Error::new(ErrorKind::Slot, doing).hint(hint).because(error),
    }
}

fn field<T: std::str::FromStr>(row: &Row, name: &str) -> Result<T> {
    row.get(name).and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::Protocol, format!("read field {name} of a replication command's answer"))
    })
}

/// Looks a slot up; `None` when the source has none of that name.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn slot_state(source: &Session, name: &SlotName) -> Result<Option<SlotState>> {
    let failed = |error| Error::from_postgres(format!("look up slot {name}"), error);
    // Columns of 13+ are read through to_jsonb, so that the same text works on older servers.
    let row = source
        .query_opt(
            "SELECT s.active, s.confirmed_flush_lsn::text,
                    greatest(pg_catalog.pg_wal_lsn_diff(p.now, s.restart_lsn), 0)::bigint,
                    (pg_catalog.to_jsonb(s) ->> 'safe_wal_size')::bigint,
                    coalesce(pg_catalog.to_jsonb(s) ->> 'wal_status' = 'lost', false)
               FROM pg_catalog.pg_replication_slots s,
                    (SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
                                 THEN pg_catalog.pg_last_wal_replay_lsn()
                                 ELSE pg_catalog.pg_current_wal_lsn() END AS now) p
              WHERE s.slot_name = $1",
            &[&name.as_str()],
        )
        .await
        .map_err(failed)?;
    Ok(row.map(|row| SlotState {
        is_active: row.get(0),
        confirmed_flush: row.get::<_, Option<&str>>(1).and_then(|text| text.parse().ok()),
        retained_bytes: row.get::<_, Option<i64>>(2).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        safe_bytes: row.get::<_, Option<i64>>(3).and_then(|bytes| u64::try_from(bytes).ok()),
        is_lost: row.get(4),
    }))
}

/// A logical slot of ours or of another's, as [`find_slots`] lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSlot {
    /// Its name.
    pub name: SlotName,
    /// The walsender that uses it now.
    pub active_pid: Option<i32>,
}

/// The pgoutput slots of this database whose names begin with `prefix`.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn find_slots(source: &Session, prefix: &str) -> Result<Vec<FoundSlot>> {
    let rows = source
        .query(
            "SELECT slot_name::text, active_pid FROM pg_catalog.pg_replication_slots
              WHERE slot_type = 'logical' AND plugin = 'pgoutput' AND database = pg_catalog.current_database()
                AND pg_catalog.left(slot_name::text, pg_catalog.length($1::text)) = $1 ORDER BY 1",
            &[&prefix],
        )
        .await
        .map_err(|error| Error::from_postgres("look for slots", error))?;
    let found = |row: &tokio_postgres::Row| {
        Some(FoundSlot { name: row.get::<_, &str>(0).parse().ok()?, active_pid: row.get(1) })
    };
    Ok(rows.iter().filter_map(found).collect())
}

/// Where the source's flushed WAL ends, on a standby its replayed WAL; and the source's clock at that moment.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn wal_position(source: &Session) -> Result<(Lsn, PgTimestamp)> {
    let row = source
        .query_one(
            "SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                          ELSE pg_catalog.pg_current_wal_flush_lsn() END)::text,
                    (extract(epoch FROM pg_catalog.clock_timestamp() - '2000-01-01 00:00:00+00') * 1000000)::bigint",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("read the source's position", error))?;
    let position = row
        .get::<_, Option<&str>>(0)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::Protocol, "read the source's position"))?;
    Ok((position, PgTimestamp::from_micros(row.get(1))))
}

/// Ends the walsender that still streams from a slot of ours: one whose engine has died without a goodbye.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn end_walsender(source: &Session, name: &SlotName) -> Result<()> {
    source
        .execute(
            "SELECT pg_catalog.pg_terminate_backend(active_pid)
               FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND active",
            &[&name.as_str()],
        )
        .await
        .map(drop)
        .map_err(|error| Error::from_postgres(format!("end the walsender that holds slot {name}"), error))
}

/// How often, and how far apart, we look whether a walsender that was ended has let go of its slot.
const FREE_LOOKS: u32 = 100;
const FREE_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// Ends the walsender that still streams from a slot of ours, and waits until it has let go of it. One that does
/// not is left to whoever then asks for the slot.
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn free_slot(source: &Session, name: &SlotName) -> Result<()> {
    for _ in 0..FREE_LOOKS {
        match slot_state(source, name).await? {
            Some(slot) if slot.is_active => end_walsender(source, name).await?,
            Some(_) | None => return Ok(()),
        }
        tokio::time::sleep(FREE_PAUSE).await;
    }
    Ok(())
}

/// Drops a slot of ours if it is there; a walsender of a dead engine that still holds it is ended first.
///
/// # Errors
/// `Slot` if the server refuses.
pub async fn drop_slot(source: &Session, name: &SlotName) -> Result<()> {
    let failed = |error| {
        let cause = Error::from_postgres("drop the slot", error);
        Error::new(cause.kind_or(ErrorKind::Slot), format!("drop replication slot {name}"))
            .hint(
                "Drop it by hand, or the source keeps WAL for it: SELECT pg_drop_replication_slot('<name>').",
            )
            .because(cause)
    };
    const ATTEMPTS: usize = 100;
    for attempt in 1..=ATTEMPTS {
        let dropped = source
            .execute(
                "SELECT pg_catalog.pg_drop_replication_slot(slot_name)
                   FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
                &[&name.as_str()],
            )
            .await;
        match dropped {
            Ok(_) => return Ok(()),
            Err(error)
                if attempt < ATTEMPTS
                    && error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE) =>
            {
                // Ends the walsender that holds it, and gives that process the moment it needs to let go.
                end_walsender(source, name).await?;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    unreachable!("the last attempt returns")
}
