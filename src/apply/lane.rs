//! One connection to the target: prepared statements, a pipeline, and where it went wrong.
//!
//! Hazard: an unbounded pipeline fills both sockets and both memories (P89); and once a statement fails, all
//! that follow fail as well. So bytes in flight are bounded, answers are read in order, and the first fault
//! is the one that counts.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, CopyInSink, Row, Statement};

use super::checkpoint::LaneId;
use super::write::{Body, Payload, Touches, Write};
use crate::catalog::ReplicaRole;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, quote_literal};
use crate::wire::{Session, SessionSettings};

/// Bytes sent and not yet answered.
const FLIGHT_BYTES_MAX: usize = 4 << 20;
/// Statements sent and not yet answered.
const FLIGHT_STATEMENTS_MAX: usize = 256;
/// Prepared statements kept on the server.
const STATEMENTS_MAX: usize = 1_000;
/// Bytes of one CopyData message.
const COPY_DATA_BYTES: usize = 256 << 10;

/// Rows are always found through an index, one by one: a plan made while a table was small or never analysed
/// must not read all of it later, and planning again for each array would cost more than it brings.
/// Some settings do not exist everywhere.
const PLANNER: &str = "
SELECT pg_catalog.set_config(s.name, w.value, false)
FROM pg_catalog.pg_settings s
JOIN (VALUES ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'),
    ('enable_mergejoin', 'off'), ('jit', 'off')) AS w (name, value) ON s.name = w.name";

/// COMMIT does not wait for the disk: [`super::flush`] does, before anybody relies on it. A coordinator that
/// commits on other servers first must not forget that it did.
const COMMIT: &str = "
SELECT pg_catalog.set_config('synchronous_commit', CASE WHEN EXISTS (
    SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN 'on' ELSE 'off' END, false)";

/// As `pg_stat_activity` shows them.
const ROLES: [&str; LaneId::MAX] = [
    "apply 0", "apply 1", "apply 2", "apply 3", "apply 4", "apply 5", "apply 6", "apply 7", "apply 8",
    "apply 9", "apply 10", "apply 11", "apply 12", "apply 13", "apply 14", "apply 15",
];

/// A session with its statements.
#[derive(Debug)]
pub(super) struct Lane {
    session: Session,
    statements: Statements,
    /// Of the source database.
    search_path: Option<String>,
}

/// What went wrong first.
#[derive(Debug)]
pub(super) struct Fault {
    /// Which of the writes; none for the prologue.
    pub(super) at: Option<usize>,
    pub(super) cause: FaultCause,
}

#[derive(Debug)]
pub(super) enum FaultCause {
    /// The statement could not even be prepared; nothing of this run was sent.
    Unprepared(tokio_postgres::Error),
    /// The server refused, or is gone.
    Server(tokio_postgres::Error),
    /// Another number of rows than were sent.
    Touched { expected: u64, touched: u64 },
}

impl Lane {
    /// Connects, with all that an apply session needs.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them.
    pub(super) async fn connect(
        target: &Conninfo,
        id: LaneId,
        role: ReplicaRole,
        search_path: Option<String>,
    ) -> Result<Lane> {
        let settings = SessionSettings::role(ROLES.get(id.index()).copied().unwrap_or("apply"));
        let session = Session::connect(target, &settings).await?;
        let failed = |error| Error::from_postgres("set up an apply session", error);
        session.batch_execute(COMMIT).await.map_err(failed)?;
        session.batch_execute(PLANNER).await.map_err(failed)?;
        let replica = match role {
            ReplicaRole::Settable => "SET session_replication_role = replica",
            ReplicaRole::ThroughAivenExtras => "SELECT aiven_extras.session_replication_role('replica')",
            // Then there are no triggers and foreign keys on the target before the cutover.
            ReplicaRole::Denied => "",
        };
        session.batch_execute(replica).await.map_err(failed)?;
        Ok(Lane { session, statements: Statements::default(), search_path })
    }

    /// The session, for statements outside the stream of changes.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Executes SQL without parameters.
    pub(super) async fn simple(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.session.batch_execute(sql).await
    }

    /// Lets functions of the target find what they name as on the source (P58). Our own statements mean what
    /// they meant: `pg_catalog` stays first, and beyond it they qualify every name.
    ///
    /// It lasts as the transaction does: for good if that commits.
    pub(super) async fn lend_search_path(&self) -> Result<(), tokio_postgres::Error> {
        let Some(path) = &self.search_path else { return Ok(()) };
        let path = quote_literal(&format!("pg_catalog, {path}"));
        self.simple(&format!("SELECT pg_catalog.set_config('search_path', {path}, false)")).await
    }

    /// Executes `prologue` and `writes` in order, many at a time, and compares the rows they touch.
    ///
    /// # Errors
    /// The first [`Fault`]; what came after it may have been executed or not: roll back.
    pub(super) async fn run(&mut self, prologue: Option<&str>, writes: &[&Write]) -> Result<(), Fault> {
        // All at once and first: an answer that nobody reads would hold up the answer to a Parse.
        let mut statements = Vec::with_capacity(writes.len());
        for (at, write) in writes.iter().enumerate() {
            let statement = self.statements.get(&self.session, &write.sql).await;
            let unprepared = |error| Fault { at: Some(at), cause: FaultCause::Unprepared(error) };
            statements.push(statement.map_err(unprepared)?);
        }
        let client: &Client = &self.session;
        let mut flight = Flight::default();
        if let Some(sql) = prologue {
            let sent = async move { client.batch_execute(sql).await.map(|()| 0) };
            flight.launch(None, Touches::Any, sql.len(), sent).await;
        }
        for (at, (write, statement)) in writes.iter().zip(&statements).enumerate() {
            match &write.body {
                Body::Parameters(parameters) => {
                    flight.make_room().await?;
                    let sent = execute(client, statement, parameters);
                    flight.launch(Some(at), write.touches, write.bytes(), sent).await;
                }
                // All before it must have succeeded: tokio-postgres sends two Syncs for a COPY that never begins, and
                // would take each answer after that for the one to another question. What follows need not wait.
                Body::Copy(rows) => {
                    flight.land_all().await?;
                    let copying = async { fill(client.copy_in(statement).await?, rows.clone()).await };
                    let mut sink = copying.await.map_err(|error| Fault::server(Some(at), error))?;
                    let sent = async move { sink.as_mut().finish().await };
                    flight.launch(Some(at), write.touches, rows.len(), sent).await;
                }
            }
        }
        flight.land_all().await
    }
}

impl Fault {
    fn server(at: Option<usize>, error: tokio_postgres::Error) -> Fault {
        Fault { at, cause: FaultCause::Server(error) }
    }
}

async fn execute(
    client: &Client,
    statement: &Statement,
    parameters: &[Payload],
) -> Result<u64, tokio_postgres::Error> {
    client.execute_raw(statement, parameters).await
}

/// Sends the rows; what is still to come is the end of the COPY.
async fn fill(
    sink: CopyInSink<Bytes>,
    mut rows: Bytes,
) -> Result<Pin<Box<CopyInSink<Bytes>>>, tokio_postgres::Error> {
    let mut sink = Box::pin(sink);
    while !rows.is_empty() {
        sink.send(rows.split_to(rows.len().min(COPY_DATA_BYTES))).await?;
    }
    sink.flush().await?;
    Ok(sink)
}

fn check(
    at: Option<usize>,
    touches: Touches,
    answer: Result<u64, tokio_postgres::Error>,
) -> Result<(), Fault> {
    match (touches, answer) {
        (_, Err(error)) => Err(Fault::server(at, error)),
        (Touches::Exactly(expected), Ok(touched)) if touched != expected => {
            Err(Fault { at, cause: FaultCause::Touched { expected, touched } })
        }
        (Touches::Exactly(_) | Touches::Any, Ok(_)) => Ok(()),
    }
}

/// Statements sent and not yet answered, oldest first.
#[derive(Default)]
struct Flight<'a> {
    airborne: VecDeque<Airborne<'a>>,
    bytes: usize,
}

struct Airborne<'a> {
    at: Option<usize>,
    touches: Touches,
    bytes: usize,
    answer: Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a>>,
}

impl<'a> Flight<'a> {
    /// Sends a statement: tokio-postgres does so when its future is first polled.
    async fn launch(
        &mut self,
        at: Option<usize>,
        touches: Touches,
        bytes: usize,
        statement: impl Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a,
    ) {
        let mut answer: Pin<Box<dyn Future<Output = _> + Send + 'a>> = Box::pin(statement);
        if let Poll::Ready(early) = futures_util::poll!(answer.as_mut()) {
            answer = Box::pin(std::future::ready(early));
        }
        self.bytes += bytes;
        self.airborne.push_back(Airborne { at, touches, bytes, answer });
    }

    /// Waits until one more may be sent.
    async fn make_room(&mut self) -> Result<(), Fault> {
        while self.bytes >= FLIGHT_BYTES_MAX || self.airborne.len() >= FLIGHT_STATEMENTS_MAX {
            self.land().await?;
        }
        Ok(())
    }

    async fn land_all(&mut self) -> Result<(), Fault> {
        while !self.airborne.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    /// Waits for the oldest answer. After a fault the others are read too, so that the connection is at rest.
    async fn land(&mut self) -> Result<(), Fault> {
        let Some(oldest) = self.airborne.pop_front() else { return Ok(()) };
        self.bytes -= oldest.bytes;
        let landed = check(oldest.at, oldest.touches, oldest.answer.await);
        if landed.is_err() {
            for later in self.airborne.drain(..) {
                // They fail because the first did, or are rolled back with it.
                let _ = later.answer.await;
            }
            self.bytes = 0;
        }
        landed
    }
}

/// A column of an answer.
///
/// # Errors
/// `Protocol` if it is not of the type that the query asks for.
pub(super) fn field<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T> {
    row.try_get(at).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("read column {at} of the target's answer")).because(error)
    })
}

/// Prepared statements by their text; the least recently used one makes room.
#[derive(Debug, Default)]
struct Statements {
    prepared: HashMap<String, (Statement, u64)>,
    clock: u64,
}

impl Statements {
    async fn get(&mut self, client: &Client, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.clock += 1;
        if let Some((statement, used)) = self.prepared.get_mut(sql) {
            *used = self.clock;
            return Ok(statement.clone());
        }
        let statement = client.prepare(sql).await?;
        if self.prepared.len() >= STATEMENTS_MAX {
            let oldest = self.prepared.iter().min_by_key(|(_, (_, used))| *used).map(|(sql, _)| sql.clone());
            oldest.and_then(|sql| self.prepared.remove(&sql));
        }
        self.prepared.insert(sql.to_owned(), (statement.clone(), self.clock));
        Ok(statement)
    }
}
