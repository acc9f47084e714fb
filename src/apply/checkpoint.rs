//! How far a lane has come, recorded on the target in the transaction that brought it there.
//!
//! Hazard: two engines on one slot would each apply everything, and every row would be there twice. The
//! update of the progress row names the position it starts from; the second engine finds another one, touches
//! no row, and stops before it commits. The same guard catches a COMMIT that was answered and not kept.

use bytes::Bytes;

use super::group::GroupEnd;
use super::lane::field;
use super::write::{Body, Payload, Touches, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, SlotName};
use crate::wire::Session;

/// One of the target connections that changes are spread over. There is one for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(i32);

impl LaneId {
    /// The lane that applies in commit order.
    pub const FIRST: LaneId = LaneId(0);

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// Creates the progress table. Its row is updated with every group: free space keeps the updates in place.
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
) WITH (fillfactor = 10)";

const READ: &str = "
SELECT end_lsn::text, transactions, changes FROM pgstream.progress WHERE slot = $1 AND lane = $2";

const INIT: &str = "
INSERT INTO pgstream.progress (slot, lane, end_lsn) VALUES ($1, $2, $3::text::pg_lsn)";

const ADVANCE: &str = "
UPDATE pgstream.progress
SET end_lsn = $3::text::pg_lsn,
    source_commit_time = timestamp with time zone '2000-01-01 00:00:00+00'
        + $4::text::bigint * interval '1 microsecond',
    updated_at = clock_timestamp(),
    transactions = transactions + $5::text::bigint,
    changes = changes + $6::text::bigint
WHERE slot = $1::text AND lane = $2::text::integer AND end_lsn = $7::text::pg_lsn";

/// A progress row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Everything that commits before this on the source is on the target.
    pub end_lsn: Lsn,
    /// Source transactions applied so far.
    pub transactions: i64,
    /// Changes applied so far.
    pub changes: i64,
}

/// Reads a lane's progress; none if it was never begun.
///
/// # Errors
/// As [`Error::from_postgres`] classes them; `State` for a row that makes no sense.
pub async fn read_progress(session: &Session, slot: &SlotName, lane: LaneId) -> Result<Option<Progress>> {
    let failed = |error| Error::from_postgres(format!("read the progress of slot {slot}"), error);
    let Some(row) = session.query_opt(READ, &[&slot.as_str(), &lane.0]).await.map_err(failed)? else {
        return Ok(None);
    };
    let end_lsn = field::<String>(&row, 0)?.parse::<Lsn>().map_err(|error| {
        Error::new(ErrorKind::State, format!("read the progress of slot {slot}")).because(error)
    })?;
    Ok(Some(Progress { end_lsn, transactions: field(&row, 1)?, changes: field(&row, 2)? }))
}

/// Begins a lane's progress at `start`, the consistent point of the slot.
///
/// # Errors
/// As [`Error::from_postgres`] classes them, for one when it was begun before.
pub async fn begin_progress(session: &Session, slot: &SlotName, lane: LaneId, start: Lsn) -> Result<()> {
    let row = session.execute(INIT, &[&slot.as_str(), &lane.0, &start.to_string()]).await;
    row.map(|_| ()).map_err(|error| Error::from_postgres(format!("begin the progress of slot {slot}"), error))
}

/// A lane's progress row, as this engine last left it.
#[derive(Debug)]
pub(super) struct Checkpoint {
    slot: SlotName,
    lane: LaneId,
    end_lsn: Lsn,
}

impl Checkpoint {
    /// Takes over the row.
    ///
    /// # Errors
    /// `State` unless it is there and stands at `start`.
    pub(super) async fn adopt(session: &Session, slot: &SlotName, start: Lsn) -> Result<Checkpoint> {
        let lane = LaneId::FIRST;
        let progress = read_progress(session, slot, lane).await?;
        match progress {
            Some(progress) if progress.end_lsn == start => {
                Ok(Checkpoint { slot: slot.clone(), lane, end_lsn: start })
            }
            found => {
                let found =
                    found.map_or("there is none".to_owned(), |found| format!("it is {}", found.end_lsn));
                Err(Error::new(
                    ErrorKind::State,
                    format!("take over the progress of slot {slot} at {start}: {found}"),
                )
                .hint("See that no other pgstream runs for this migration, then run the command again."))
            }
        }
    }

    /// The lane.
    pub(super) fn lane(&self) -> LaneId {
        self.lane
    }

    /// The statement that records `end`, for the transaction that brings the lane there.
    pub(super) fn advance(&self, end: &GroupEnd) -> Write {
        let parameters = [
            self.slot.to_string(),
            self.lane.0.to_string(),
            end.end_lsn.to_string(),
            end.commit_time.micros().to_string(),
            end.transactions.to_string(),
            end.changes.to_string(),
            self.end_lsn.to_string(),
        ];
        let parameters = parameters.map(|text| Payload::Text(Bytes::from(text)));
        Write {
            table: None,
            sql: ADVANCE.to_owned(),
            body: Body::Parameters(parameters.into()),
            touches: Touches::Exactly(1),
        }
    }

    /// The transaction with [`Checkpoint::advance`] has committed.
    pub(super) fn advanced(&mut self, end: &GroupEnd) {
        self.end_lsn = end.end_lsn;
    }

    /// Why [`Checkpoint::advance`] touched no row.
    pub(super) fn stolen(&self) -> Error {
        let doing = format!("record the progress of slot {} after {}", self.slot, self.end_lsn);
        Error::new(ErrorKind::State, doing)
            .hint("The row was changed by someone else: see that no other pgstream runs for this migration.")
    }
}
