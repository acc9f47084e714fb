//! Large objects, carried whole and under their own OIDs: the stream says nothing of them (P34).
//!
//! Hazard: applications hold their OIDs, so each keeps its own. There may be a hundred million of them, and one
//! may be terabytes: they travel by COPY, a range of OIDs at a time, in pieces, through a temporary table from which
//! the target makes them; none is ever held here, and what the target holds for us at once is bounded.
//!
//! ```text
//! source: lo_get(oid, 0, piece) ══ splice ══► pg_temp.pgstream_piece ─► lo_from_bytea   1000 objects at a time
//!         lo_get(oid, n · piece, piece) ════► pg_temp.pgstream_piece ─► lo_put          one object, many pieces
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::object_right::{self, Described, Roles, Unmet};
use crate::error::{Error, ErrorKind, Recovery, Result};
use crate::pg::{Conninfo, quote_literal};
use crate::wire::{Connection, ConnectionSettings, Meter, Row, splice};

/// Bytes of one object that are one row of a COPY.
const PIECE_BYTES: u64 = 256 << 10;
/// Objects in a range. Whoever drops or alters an object locks it, and the server's table of locks is small.
const RANGE_OBJECTS: u64 = 1000;
/// Pieces of one object that lie on the target at once, at the most.
const PIECES_MAX: u64 = 256;
/// How often a range is tried before its connection error counts.
const ATTEMPTS: u32 = 6;

/// What to carry, from where, under which snapshot.
#[derive(Debug)]
pub struct ObjectPlan {
    /// The source database.
    pub source: Conninfo,
    /// The target database.
    pub target: Conninfo,
    /// The keeper's snapshot.
    pub snapshot: String,
    /// Workers; each holds one connection to either end.
    pub jobs: usize,
}

/// What was carried, and what could not be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CarriedObjects {
    /// How many.
    pub count: u64,
    /// What the target would not take of their owners, rights and comments.
    pub warnings: Vec<String>,
}

/// OIDs `first..end`; without `end`, to the last there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    end: Option<u32>,
}

impl Range {
    fn condition(self, column: &str) -> String {
        let Range { first, end } = self;
        let below = end.map(|end| format!(" AND {column} < {end}")).unwrap_or_default();
        format!("{column} >= {first}{below}")
    }

    /// Ranges that begin at these OIDs, in order; together they hold every OID there can be.
    fn all(beginnings: &[u32]) -> Vec<Range> {
        let first = std::iter::once(0).chain(beginnings.iter().skip(1).copied());
        let ends = beginnings.iter().skip(1).copied().map(Some).chain([None]);
        first.zip(ends).map(|(first, end)| Range { first, end }).collect()
    }
}

/// Makes the target's large objects those of the source, as the snapshot shows them. Can be done twice: what is
/// there is replaced, and what is there only goes.
///
/// # Errors
/// `Snapshot` when the snapshot is gone, `Connect` when a server stayed away, else `Copy`; objects carried before
/// stay.
pub async fn carry_large_objects(plan: ObjectPlan) -> Result<CarriedObjects> {
    let mut source = open_source(&plan).await?;
    let beginnings = source
        .query(&format!(
            "SELECT m.oid FROM (SELECT oid, pg_catalog.row_number() OVER (ORDER BY oid) - 1 AS number
                                  FROM pg_catalog.pg_largeobject_metadata) m
              WHERE m.number % {RANGE_OBJECTS} = 0 ORDER BY m.oid"
        ))
        .await
        .map_err(explain)?;
    let beginnings = beginnings.iter().map(|row| number(row, "oid")).collect::<Result<Vec<u32>>>()?;
    source.close().await;
    let (sender, queue) = crossbeam_channel::unbounded();
    let ranges = Range::all(&beginnings);
    let jobs = plan.jobs.min(ranges.len());
    for range in ranges {
        sender.send(range).expect("the receiver is held here");
    }
    drop(sender);
    let plan = Arc::new(plan);
    let mut workers = JoinSet::new();
    for _ in 0..jobs {
        let carrier = Carrier { plan: Arc::clone(&plan), ends: None, unmet: Unmet::default(), count: 0 };
        workers.spawn(carrier.run(queue.clone()));
    }
    let (mut count, mut unmet) = (0, Unmet::default());
    while let Some(ended) = workers.join_next().await {
        let (carried, its) =
            ended.map_err(|cause| Error::new(ErrorKind::Bug, "carry large objects").because(cause))??;
        count += carried;
        unmet.add(its);
    }
    Ok(CarriedObjects { count, warnings: unmet.warnings() })
}

async fn open_source(plan: &ObjectPlan) -> Result<Connection> {
    let mut source = Connection::connect(&plan.source, &ConnectionSettings::sql("large objects")).await?;
    let join = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        quote_literal(&plan.snapshot)
    );
    source.execute(&join).await.map_err(|error| match error.recovery() {
        Recovery::Retry => error,
        Recovery::Operator | Recovery::Bug => {
            Error::new(ErrorKind::Snapshot, "join the snapshot for large objects").because(error)
        }
    })?;
    Ok(source)
}

fn explain(error: Error) -> Error {
    if matches!(error.kind(), ErrorKind::Snapshot | ErrorKind::Connect) {
        return error;
    }
    Error::new(ErrorKind::Copy, "carry the large objects")
        .hint(
            "Large objects can be read by their owners, by whom they are granted to, and by superusers: GRANT SELECT ON \
             LARGE OBJECT … on the source, or let the source role be a member of their owners. Running again is safe.",
        )
        .because(error)
}

fn number<T: std::str::FromStr>(row: &Row, column: &str) -> Result<T> {
    row.require(column)?.parse().map_err(|_| {
        Error::new(ErrorKind::Protocol, "read a catalog of large objects")
            .because(format!("column {column} is no number"))
    })
}

/// Takes ranges from the queue, one connection to either end.
struct Carrier {
    plan: Arc<ObjectPlan>,
    ends: Option<Ends>,
    unmet: Unmet,
    count: u64,
}

struct Ends {
    source: Connection,
    target: Connection,
    roles: Roles,
}

impl Carrier {
    async fn run(mut self, queue: crossbeam_channel::Receiver<Range>) -> Result<(u64, Unmet)> {
        while let Ok(range) = queue.try_recv() {
            self.carry_patiently(range).await?;
        }
        Ok((self.count, self.unmet))
    }

    /// A range is emptied before it is filled, so it can be begun anew on new connections.
    async fn carry_patiently(&mut self, range: Range) -> Result<()> {
        let mut attempt = 1;
        loop {
            let error = match self.carry(range).await {
                Ok((count, unmet)) => {
                    self.count += count;
                    self.unmet.add(unmet);
                    return Ok(());
                }
                Err(error) => error,
            };
            self.ends = None;
            if error.kind() != ErrorKind::Connect || attempt == ATTEMPTS {
                return Err(explain(error));
            }
            tracing::warn!(error = %crate::error::describe(&error), attempt, "large objects broke off; trying again");
            // Nothing to wait for but time: the server is away.
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            attempt += 1;
        }
    }

    async fn ends(&mut self) -> Result<&mut Ends> {
        if self.ends.is_none() {
            let source = open_source(&self.plan).await?;
            let mut target = Connection::connect(&self.plan.target, &ConnectionSettings::sql("load")).await?;
            target
                .execute(
                    "CREATE TEMPORARY TABLE pgstream_piece (object oid, number bigint, content bytea)
                         ON COMMIT DELETE ROWS",
                )
                .await?;
            let roles = Roles::probe(&mut target).await?;
            self.ends = Some(Ends { source, target, roles });
        }
        Ok(self.ends.as_mut().expect("connected above"))
    }

    async fn carry(&mut self, range: Range) -> Result<(u64, Unmet)> {
        let ends = self.ends().await?;
        ends.empty(range).await?;
        let described = Described::read(&mut ends.source, &range.condition("m.oid")).await?;
        if described.count() == 0 {
            return Ok((0, Unmet::default()));
        }
        for object in ends.carry_beginnings(range).await? {
            ends.carry_rest(object).await?;
        }
        let unmet = object_right::set(&mut ends.target, &described, &ends.roles).await?;
        Ok((described.count(), unmet))
    }
}

impl Ends {
    /// Drops what the target has there, in transactions that lock few objects each.
    async fn empty(&mut self, range: Range) -> Result<()> {
        let unlink = format!(
            "SELECT pg_catalog.lo_unlink(m.oid)
               FROM (SELECT oid FROM pg_catalog.pg_largeobject_metadata WHERE {} LIMIT {RANGE_OBJECTS}) m",
            range.condition("oid")
        );
        while self.target.execute(&unlink).await? > 0 {}
        Ok(())
    }

    /// Makes every object of the range with its first piece; gives those that have more.
    async fn carry_beginnings(&mut self, range: Range) -> Result<Vec<u32>> {
        let first_pieces = format!(
            "SELECT m.oid, 0::pg_catalog.int8, pg_catalog.lo_get(m.oid, 0, {PIECE_BYTES})
               FROM pg_catalog.pg_largeobject_metadata m WHERE {}",
            range.condition("m.oid")
        );
        self.stage(&first_pieces).await?;
        self.target
            .execute("SELECT pg_catalog.lo_from_bytea(p.object, p.content) FROM pg_temp.pgstream_piece p")
            .await?;
        let full = self
            .target
            .query(&format!(
                "SELECT p.object FROM pg_temp.pgstream_piece p WHERE pg_catalog.length(p.content) = {PIECE_BYTES}"
            ))
            .await?;
        self.target.execute("COMMIT").await?;
        full.iter().map(|row| number(row, "object")).collect()
    }

    /// Everything after an object's first piece, in ever larger steps: most objects are small.
    async fn carry_rest(&mut self, object: u32) -> Result<()> {
        let (mut next, mut pieces) = (1, 4);
        loop {
            let end = next + pieces;
            // The server does not tell how long an object is; beyond its end there are no bytes.
            let some = format!(
                "SELECT {object}::pg_catalog.oid, p.number, p.content
                   FROM (SELECT n AS number, pg_catalog.lo_get({object}, n * {PIECE_BYTES}, {PIECE_BYTES}) AS content
                           FROM pg_catalog.generate_series({next}::pg_catalog.int8, {end} - 1) n OFFSET 0) p
                  WHERE pg_catalog.length(p.content) > 0"
            );
            let came = self.stage(&some).await?;
            self.target
                .execute(&format!(
                    "SELECT pg_catalog.lo_put(p.object, p.number * {PIECE_BYTES}, p.content)
                       FROM pg_temp.pgstream_piece p"
                ))
                .await?;
            self.target.execute("COMMIT").await?;
            if came < pieces {
                return Ok(());
            }
            next = end;
            pieces = PIECES_MAX.min(pieces * 4);
        }
    }

    /// Brings the pieces that `query` gives into the temporary table of a new transaction.
    async fn stage(&mut self, query: &str) -> Result<u64> {
        self.target.execute("BEGIN").await?;
        let out = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
        let into = "COPY pg_temp.pgstream_piece (object, number, content) FROM STDIN (FORMAT binary)";
        let spliced = splice(&mut self.source, &out, &mut self.target, into, &Meter::default()).await?;
        Ok(spliced.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_every_oid_once() {
        let ranges = |beginnings: &[u32]| -> Vec<String> {
            Range::all(beginnings).into_iter().map(|range| range.condition("o")).collect()
        };
        assert_eq!(ranges(&[]), ["o >= 0"]);
        assert_eq!(ranges(&[700]), ["o >= 0"]);
        assert_eq!(
            ranges(&[700, 900, 4_294_967_295]),
            ["o >= 0 AND o < 900", "o >= 900 AND o < 4294967295", "o >= 4294967295"]
        );
    }
}
