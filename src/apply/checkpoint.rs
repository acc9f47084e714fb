//! How far each lane has come, recorded on the target in the transaction that brought it there.
//!
//! Hazard: two engines on one slot would each apply everything, and every row would be there twice. The
//! update of a progress row names the position it starts from; the second engine finds another one, touches
//! no row, and stops before it commits. The same guard catches a COMMIT that was answered and not kept.
//!
//! There is one row while one lane applies everything in commit order. While changes are spread there is one
//! for each lane, and everybody else counts by the one that is furthest behind.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::answer::field;
use super::group::GroupEnd;
use super::write::{Body, Touches, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, SlotName};
use crate::wire::{Payload, Session};

/// One of the target connections that changes are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneId(usize);

impl LaneId {
    /// The most lanes that changes may be spread over.
    pub(super) const MAX: usize = 16;
    /// The lane that also applies alone, in commit order.
    pub(super) const FIRST: LaneId = LaneId(0);

    /// All lanes of so many.
    pub(super) fn all(lanes: usize) -> impl Iterator<Item = LaneId> {
        (0..lanes.min(LaneId::MAX)).map(LaneId)
    }

    /// The lane that a hash falls to.
    pub(super) fn of_hash(hash: u64, lanes: usize) -> LaneId {
        LaneId(usize::try_from(hash % lanes.max(1) as u64).unwrap_or(0))
    }

    /// The bare number.
    pub(super) const fn index(self) -> usize {
        self.0
    }
}

/// Whom a transaction on the target brings forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everyone: it holds all changes up to its end, in commit order.
    All,
    /// One lane: it holds that lane's share of them.
    Lane(LaneId),
}

/// Creates the progress tables. Their rows are updated with every group: free space keeps the updates in place.
pub const PROGRESS_DDL: &str = "
CREATE SCHEMA IF NOT EXISTS pgstream;
CREATE TABLE IF NOT EXISTS pgstream.progress (
    slot text NOT NULL,
    lane integer NOT NULL,
    end_lsn pg_lsn NOT NULL,
    source_commit_time timestamp with time zone,
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    transactions bigint NOT NULL DEFAULT 0,
    changes bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (slot, lane)
) WITH (fillfactor = 10);
CREATE TABLE IF NOT EXISTS pgstream.stream (
    slot text PRIMARY KEY,
    durable_lsn pg_lsn NOT NULL,
    flushed_at timestamp with time zone NOT NULL DEFAULT now(),
    keyed text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 10)";

const READ: &str = "
SELECT lane, end_lsn::text, transactions, changes FROM pgstream.progress WHERE slot = $1 ORDER BY lane";

const READ_KEYED: &str = "SELECT keyed FROM pgstream.stream WHERE slot = $1";

const INIT: &str = "
WITH stream AS (
    INSERT INTO pgstream.stream (slot, durable_lsn) VALUES ($1, $2::text::pg_lsn)
    ON CONFLICT (slot) DO UPDATE SET durable_lsn = excluded.durable_lsn, keyed = '{}')
INSERT INTO pgstream.progress (slot, lane, end_lsn) VALUES ($1, 0, $2::text::pg_lsn)";

const ADVANCE: &str = "
UPDATE pgstream.progress
SET end_lsn = $3::text::pg_lsn,
    source_commit_time = coalesce(timestamp with time zone '2000-01-01 00:00:00+00'
        + nullif($4::text, '')::bigint * interval '1 microsecond', source_commit_time),
    updated_at = clock_timestamp(),
    transactions = transactions + $5::text::bigint,
    changes = changes + $6::text::bigint
WHERE slot = $1::text AND lane = $2::text::integer AND end_lsn = $7::text::pg_lsn";

const EXPAND: &str = "
INSERT INTO pgstream.progress (slot, lane, end_lsn, source_commit_time)
SELECT p.slot, g.lane, p.end_lsn, p.source_commit_time
FROM pgstream.progress p, pg_catalog.generate_series(1, $2::text::integer - 1) AS g (lane)
WHERE p.slot = $1::text AND p.lane = 0 AND p.end_lsn = $3::text::pg_lsn";

const KEYED: &str = "UPDATE pgstream.stream SET keyed = $2::text[] WHERE slot = $1::text";

const COLLAPSE: &str = "
WITH gone AS (
    DELETE FROM pgstream.progress WHERE slot = $1::text AND lane > 0
    RETURNING lane, end_lsn::text, transactions, changes
), sum AS (
    SELECT array_agg(end_lsn ORDER BY lane) AS ends, sum(transactions) AS transactions, sum(changes) AS changes
    FROM gone
)
UPDATE pgstream.progress p
SET transactions = p.transactions + sum.transactions, changes = p.changes + sum.changes
FROM sum
WHERE p.slot = $1::text AND p.lane = 0 AND sum.ends = $2::text[]";

/// How far the target has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Everything that commits before this on the source is on the target.
    pub end_lsn: Lsn,
    /// Source transactions applied so far.
    pub transactions: i64,
    /// Changes applied so far.
    pub changes: i64,
}

/// Reads the progress, of the lane that is furthest behind if there are several; none if it was never begun.
///
/// # Errors
/// As [`Error::from_postgres`] classes them; `State` for rows that make no sense.
pub async fn read_progress(session: &Session, slot: &SlotName) -> Result<Option<Progress>> {
    let rows = read(session, slot).await?;
    Ok(rows.into_iter().reduce(|all, lane| Progress {
        end_lsn: all.end_lsn.min(lane.end_lsn),
        transactions: all.transactions + lane.transactions,
        changes: all.changes + lane.changes,
    }))
}

/// Begins the progress at `start`, the consistent point of the slot.
///
/// # Errors
/// As [`Error::from_postgres`] classes them, for one when it was begun before.
pub async fn begin_progress(session: &Session, slot: &SlotName, start: Lsn) -> Result<()> {
    let row = session.execute(INIT, &[&slot.as_str(), &start.to_string()]).await;
    row.map(|_| ()).map_err(|error| Error::from_postgres(format!("begin the progress of slot {slot}"), error))
}

/// A row for each lane, in order.
async fn read(session: &Session, slot: &SlotName) -> Result<Vec<Progress>> {
    let doing = || format!("read the progress of slot {slot}");
    let rows = session.query(READ, &[&slot.as_str()]).await;
    let rows = rows.map_err(|error| Error::from_postgres(doing(), error))?;
    let mut lanes = Vec::with_capacity(rows.len());
    for (row, lane) in rows.iter().zip(0..) {
        if field::<i32>(row, 0)? != lane {
            return Err(
                Error::new(ErrorKind::State, doing()).hint(format!("The row of lane {lane} is missing."))
            );
        }
        let end_lsn = field::<String>(row, 1)?.parse::<Lsn>();
        let end_lsn = end_lsn.map_err(|error| Error::new(ErrorKind::State, doing()).because(error))?;
        lanes.push(Progress { end_lsn, transactions: field(row, 2)?, changes: field(row, 3)? });
    }
    Ok(lanes)
}

/// The progress rows, as this engine last left them; lanes share it.
#[derive(Debug)]
pub(super) struct Checkpoint {
    slot: SlotName,
    /// By lane.
    ends: Mutex<Vec<Lsn>>,
}

impl Checkpoint {
    /// Takes over the rows.
    ///
    /// # Errors
    /// `State` unless they are there, and the one that is furthest behind stands at `start`.
    pub(super) async fn adopt(session: &Session, slot: &SlotName, start: Lsn) -> Result<Checkpoint> {
        let ends: Vec<Lsn> = read(session, slot).await?.iter().map(|lane| lane.end_lsn).collect();
        match ends.iter().min() {
            Some(end) if *end == start && ends.len() <= LaneId::MAX => {
                Ok(Checkpoint { slot: slot.clone(), ends: Mutex::new(ends) })
            }
            found => {
                let found = found.map_or("there is none".to_owned(), |end| format!("it is {end}"));
                Err(Error::new(
                    ErrorKind::State,
                    format!("take over the progress of slot {slot} at {start}: {found}"),
                )
                .hint("See that no other pgstream runs for this migration, then run the command again."))
            }
        }
    }

    /// By which keys the engine before this one spread its changes.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them.
    pub(super) async fn keyed(&self, session: &Session) -> Result<BTreeSet<String>> {
        let row = session
            .query_opt(READ_KEYED, &[&self.slot.as_str()])
            .await
            .map_err(|error| Error::from_postgres(format!("read how slot {} is spread", self.slot), error))?;
        let keyed = row.map_or(Ok(Vec::new()), |row| field::<Vec<String>>(&row, 0))?;
        Ok(keyed.into_iter().collect())
    }

    /// Where each lane stands.
    pub(super) fn ends(&self) -> Vec<Lsn> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The statements that record `end`, for the transaction that brings those of `scope` there.
    ///
    /// Once all have come to one position, one row is enough.
    pub(super) fn advance(&self, scope: Scope, end: &GroupEnd) -> Vec<Write> {
        let ends = self.ends();
        match scope {
            Scope::Lane(lane) => self.advance_lane(&ends, lane, end).into_iter().collect(),
            Scope::All if ends.len() > 1 && ends.iter().all(|lane| *lane <= end.end_lsn) => {
                let rest = array(ends.iter().skip(1).map(Lsn::to_string));
                let collapse = write(COLLAPSE, [self.slot.to_string(), rest]);
                [collapse].into_iter().chain(self.advance_lane(&ends, LaneId::FIRST, end)).collect()
            }
            // After a crash lanes stand apart: those ahead have their share already. The first counts.
            Scope::All => {
                let behind = LaneId::all(ends.len()).filter(|lane| ends[lane.index()] < end.end_lsn);
                let counted = std::iter::once(*end).chain(std::iter::repeat(end.uncounted()));
                let pairs = behind.zip(counted);
                pairs.filter_map(|(lane, end)| self.advance_lane(&ends, lane, &end)).collect()
            }
        }
    }

    fn advance_lane(&self, ends: &[Lsn], lane: LaneId, end: &GroupEnd) -> Option<Write> {
        let before = ends.get(lane.index())?;
        let parameters = [
            self.slot.to_string(),
            lane.index().to_string(),
            end.end_lsn.to_string(),
            end.commit_time.map_or(String::new(), |time| time.micros().to_string()),
            end.transactions.to_string(),
            end.changes.to_string(),
            before.to_string(),
        ];
        Some(write(ADVANCE, parameters))
    }

    /// The statements that give each of `lanes` lanes a row where the one row stands, and record what is spread.
    pub(super) fn expand(&self, lanes: usize, keyed: &BTreeSet<String>) -> Vec<Write> {
        let start = self.ends().first().copied().unwrap_or(Lsn::ZERO);
        let parameters = [self.slot.to_string(), lanes.to_string(), start.to_string()];
        let rows = write(EXPAND, parameters);
        let keyed = write(KEYED, [self.slot.to_string(), array(keyed.iter().cloned())]);
        vec![Write { touches: Touches::Exactly(lanes.saturating_sub(1) as u64), ..rows }, keyed]
    }

    /// The transaction with [`Checkpoint::advance`] has committed.
    pub(super) fn advanced(&self, scope: Scope, end: &GroupEnd) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match scope {
            Scope::Lane(lane) => {
                if let Some(lane) = ends.get_mut(lane.index()) {
                    *lane = end.end_lsn;
                }
            }
            Scope::All => {
                ends.iter_mut().for_each(|lane| *lane = end.end_lsn.max(*lane));
                if ends.iter().all(|lane| *lane == end.end_lsn) {
                    ends.truncate(1);
                }
            }
        }
    }

    /// The transaction with [`Checkpoint::expand`] has committed.
    pub(super) fn expanded(&self, lanes: usize) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let start = ends.first().copied().unwrap_or(Lsn::ZERO);
        ends.resize(lanes, start);
    }

    /// Why [`Checkpoint::advance`] touched no row.
    pub(super) fn stolen(&self) -> Error {
        let start = self.ends().into_iter().min().unwrap_or(Lsn::ZERO);
        Error::new(ErrorKind::State, format!("record the progress of slot {} after {start}", self.slot))
            .hint("The row was changed by someone else: see that no other pgstream runs for this migration.")
    }
}

fn write<const N: usize>(sql: &str, parameters: [String; N]) -> Write {
    Write {
        table: None,
        sql: sql.to_owned(),
        body: Body::Parameters(parameters.map(|text| Payload::Text(Bytes::from(text))).into()),
        touches: Touches::Exactly(1),
    }
}

/// An array literal.
pub(super) fn array(texts: impl Iterator<Item = String>) -> String {
    let quoted = texts.map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
impl Checkpoint {
    /// One lane, of no server.
    pub(super) fn standing_at(start: Lsn) -> Checkpoint {
        Checkpoint { slot: "s".parse().expect("a slot's name"), ends: Mutex::new(vec![start]) }
    }
}
