//! Applies what is parked, once a person has mended what refused it.
//!
//! Hazard: the other rows have gone on since. What a parked row was in between may meet what they are by now, such
//! as a unique value that has changed hands; only what it has come to must fit. So the changes of a chain are told
//! as their net effect, and chains that are in each other's way are tried again once the others are through.
//!
//! Each chain is applied and forgotten in one transaction: whole, or still parked.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::written::{Written, columns_of};
use super::{exists, name};
use crate::apply::answer::field;
use crate::apply::change::{Change, Step};
use crate::apply::checkpoint::LaneId;
use crate::apply::fault::Verdict;
use crate::apply::lane::{Fault, FaultCause, Lane};
use crate::apply::operator::TargetFacts;
use crate::apply::options::ApplyOptions;
use crate::apply::plan::plan;
use crate::apply::table::{Binder, BoundTable};
use crate::apply::write::{Body, Touches, Write, writes};
use crate::catalog::Table;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, QualifiedName};
use crate::wire::{Payload, Session, SessionSettings};

const CHAINS: &str = "
SELECT schema_name, table_name, chain, min(ordinal), count(*) FROM pgstream.quarantine
WHERE slot = $1 GROUP BY 1, 2, 3 ORDER BY 4";

const CHANGES: &str = "
SELECT ordinal, key, kind, columns, old_row::text, new_row::text FROM pgstream.quarantine
WHERE slot = $1 AND chain = $2 AND ordinal > $3 ORDER BY ordinal LIMIT $4";

const DONE: &str = "DELETE FROM pgstream.quarantine WHERE slot = $1 AND chain = $2::text::bigint";

/// Why it still waits.
const REFUSED: &str = "UPDATE pgstream.quarantine SET sqlstate = $2, message = $3 WHERE ordinal = $1";

const BEGIN: [&str; 2] = ["BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", "SET CONSTRAINTS ALL DEFERRED"];

/// Changes that are told at once; also the most that are in memory.
const AT_ONCE: i64 = 10_000;
/// How often chains are tried that others may have been in the way of.
const PASSES_MAX: usize = 8;

/// Applies what is parked for the options' slot, a row after another; gives the number of changes that went through.
/// The rest stays parked.
///
/// # Errors
/// As [`Error::from_postgres`] classes them, for all but a refusal; `State` if what is parked cannot be read, or its
/// table is not there.
pub async fn replay_parked(options: &ApplyOptions) -> Result<u64> {
    let (role, search_path) = (options.replica_role, options.search_path.clone());
    let session = Session::connect(&options.target, &SessionSettings::role("replay")).await?;
    if !exists(&session).await? {
        return Ok(0);
    }
    let facts = TargetFacts::load(&session, &options.tables).await?;
    let mut lane = Lane::connect(&options.target, LaneId::FIRST, role, search_path).await?;
    lane.lend_search_path().await?;
    let mut replay = Replay { lane, session, options, facts, shapes: HashMap::new() };
    let mut left = replay.chains().await?;
    let mut replayed = 0;
    for _ in 0..PASSES_MAX {
        let (before, mut still) = (left.len(), Vec::new());
        for chain in left {
            match replay.chain(&chain).await? {
                true => replayed += chain.changes,
                false => still.push(chain),
            }
        }
        left = still;
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    Ok(replayed)
}

/// The changes of rows that took over each other's keys; mostly of one row.
struct Chain {
    table: QualifiedName,
    id: i64,
    first: i64,
    changes: u64,
}

/// Columns, and those of the key.
type Shape = (QualifiedName, Vec<String>, Vec<String>);

struct Replay<'a> {
    lane: Lane,
    /// What is parked stays as it is until a chain is done, so it is read beside.
    session: Session,
    options: &'a ApplyOptions,
    facts: TargetFacts,
    shapes: HashMap<Shape, Arc<BoundTable>>,
}

/// Why a chain was not applied.
enum Failure {
    Refused(Fault),
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

impl Replay<'_> {
    async fn chains(&self) -> Result<Vec<Chain>> {
        let rows = self.session.query(CHAINS, &[&self.options.slot.as_str()]).await;
        let chain = |row| {
            let (id, first) = (field(row, 2)?, field(row, 3)?);
            Ok(Chain { table: name(row)?, id, first, changes: field::<i64>(row, 4)?.unsigned_abs() })
        };
        rows.map_err(unread)?.iter().map(chain).collect()
    }

    /// Applies a chain, or leaves no trace of it but why.
    async fn chain(&mut self, chain: &Chain) -> Result<bool> {
        let doing = || format!("replay what is parked of {}", chain.table.plain());
        self.lane.run(&BEGIN, &[]).await.map_err(|fault| fault.into_error(&doing()))?;
        let fault = match self.apply(chain).await {
            Ok(()) => match self.lane.simple("COMMIT").await {
                Ok(()) => return Ok(true),
                Err(fault) => fault,
            },
            Err(Failure::Refused(fault)) => fault,
            Err(Failure::Final(error)) => return Err(error),
        };
        if !matches!(fault.verdict(), Verdict::Replay(_)) {
            return Err(fault.into_error(&doing()));
        }
        self.lane.simple("ROLLBACK").await.map_err(|fault| fault.into_error(&doing()))?;
        let (sqlstate, message) = fault.said();
        let sqlstate = sqlstate.map(|state| state.to_string());
        let noted = self.session.execute(REFUSED, &[&chain.first, &sqlstate, &message]).await;
        noted.map_err(|error| Error::from_postgres(doing(), error))?;
        Ok(false)
    }

    async fn apply(&mut self, chain: &Chain) -> Result<(), Failure> {
        let (slot, mut last) = (self.options.slot.clone(), 0_i64);
        loop {
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                [&slot.as_str(), &chain.id, &last, &AT_ONCE];
            let rows = self.session.query(CHANGES, &parameters).await.map_err(unread)?;
            // Of one shape each: of two the order would be lost.
            let mut runs: Vec<(u64, Vec<Step>)> = Vec::new();
            for row in &rows {
                last = field(row, 0)?;
                let change = self.change(&chain.table, row)?;
                let serial = change.table.serial;
                match runs.last_mut() {
                    Some((same, run)) if *same == serial => run.push(Step::Row(change)),
                    Some(_) | None => runs.push((serial, vec![Step::Row(change)])),
                }
            }
            for (_, run) in &runs {
                let writes: Vec<Write> = plan(run).iter().flat_map(writes).collect();
                let writes: Vec<&Write> = writes.iter().collect();
                self.lane.run(&[], &writes).await.map_err(Failure::Refused)?;
            }
            if rows.is_empty() {
                break;
            }
        }
        let parameters = [slot.to_string(), chain.id.to_string()];
        let done = Write {
            table: None,
            sql: DONE.to_owned(),
            body: Body::Parameters(parameters.map(|text| Payload::Text(Bytes::from(text))).into()),
            touches: Touches::Exactly(chain.changes),
        };
        self.lane.run(&[], &[&done]).await.map_err(|fault| match fault.cause {
            FaultCause::Touched { expected, touched } => {
                let doing = format!("replay what is parked of {}", chain.table.plain());
                let error = Error::new(ErrorKind::State, doing)
                    .because(format!("{touched} changes were there, and {expected} before"))
                    .hint("See that no other pgstream runs for this migration.");
                Failure::Final(error)
            }
            _ => Failure::Refused(fault),
        })
    }

    fn change(&mut self, name: &QualifiedName, row: &tokio_postgres::Row) -> Result<Change> {
        let unreadable = |error| {
            Error::new(ErrorKind::State, format!("read what is parked of {}", name.plain())).because(error)
        };
        let written = Written {
            kind: field(row, 2)?,
            columns: field(row, 3)?,
            old: field(row, 4)?,
            new: field(row, 5)?,
        };
        let key = columns_of(&field::<String>(row, 1)?).map_err(unreadable)?;
        let op = written.op().map_err(unreadable)?;
        let shape = (name.clone(), written.columns.clone(), key);
        let table = match self.shapes.get(&shape) {
            Some(table) => Arc::clone(table),
            None => {
                let table = self.bind(name, &written, &shape.2)?;
                self.shapes.insert(shape, Arc::clone(&table));
                table
            }
        };
        Ok(Change { table, transaction: 0, op })
    }

    /// Columns that have gone from both ends since are left out.
    fn bind(&self, name: &QualifiedName, written: &Written, key: &[String]) -> Result<Arc<BoundTable>> {
        let is_it = |table: &&Table| table.name == *name;
        let target = self.options.tables.iter().find(is_it).ok_or_else(|| {
            Error::new(ErrorKind::State, format!("replay what is parked of {}", name.plain()))
                .because("the target has no such table")
                .hint("Give it up with `--quarantine discard`, or create the table.")
        })?;
        let relation = written.relation(target, key);
        let binder = Binder { facts: &self.facts, types: &HashMap::new(), since: Some(target) };
        binder.bind(&relation, target, Lsn::ZERO).map_err(|drift| drift.into_error(&Arc::new(relation)))
    }
}

fn unread(error: tokio_postgres::Error) -> Error {
    Error::from_postgres("read what is parked", error)
}
