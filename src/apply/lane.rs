//! One connection to the target: prepared statements, a pipeline, and where it went wrong.
//!
//! Hazard: once a statement fails, all that follow are passed over, the reading of new statements, too. So the first
//! fault is the one that counts, and what was to be prepared after it is not taken for known.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;

use super::checkpoint::LaneId;
use super::write::{Body, Touches, Write};
use crate::catalog::ReplicaRole;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, SqlState, quote_literal};
use crate::wire::{
    CommandTag, Connection, ConnectionSettings, Payload, Pipelined, Request, ServerError, StatementId,
};

/// Prepared statements kept on the server.
const STATEMENTS_MAX: usize = 1_000;

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
const WHEN_TO_FLUSH: &str = "
SELECT pg_catalog.set_config('synchronous_commit', CASE WHEN EXISTS (
    SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN 'on' ELSE 'off' END, false)";

/// The statement, and its tag if it did what it says: a transaction that has failed is ended by it, too.
pub(super) const COMMIT: &str = "COMMIT";

/// As `pg_stat_activity` shows them.
const ROLES: [&str; LaneId::MAX] = [
    "apply 0", "apply 1", "apply 2", "apply 3", "apply 4", "apply 5", "apply 6", "apply 7", "apply 8",
    "apply 9", "apply 10", "apply 11", "apply 12", "apply 13", "apply 14", "apply 15",
];

/// A connection with its statements.
#[derive(Debug)]
pub(super) struct Lane {
    connection: Connection,
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
    /// The statement could not even be prepared.
    Unprepared(Box<ServerError>),
    /// The server refused.
    Server(Box<ServerError>),
    /// The server is gone.
    Lost(Error),
    /// Another number of rows than were sent.
    Touched { expected: u64, touched: u64 },
    /// The same, found out by the server.
    Miscounted,
}

impl Lane {
    /// Connects, with all that an apply session needs.
    ///
    /// # Errors
    /// As [`Connection::connect`]; the server's refusal of a setting.
    pub(super) async fn connect(
        target: &Conninfo,
        id: LaneId,
        role: ReplicaRole,
        search_path: Option<String>,
    ) -> Result<Lane> {
        let settings = ConnectionSettings::sql(ROLES.get(id.index()).copied().unwrap_or("apply"));
        let mut connection = Connection::connect(target, &settings).await?;
        let replica = match role {
            ReplicaRole::Settable => "SET session_replication_role = replica",
            ReplicaRole::ThroughAivenExtras => "SELECT aiven_extras.session_replication_role('replica')",
            // Then there are no triggers and foreign keys on the target before the cutover.
            ReplicaRole::Denied => "",
        };
        connection.query(&format!("{WHEN_TO_FLUSH};{PLANNER};{replica}")).await?;
        Ok(Lane { connection, statements: Statements::default(), search_path })
    }

    /// Executes one statement without parameters.
    ///
    /// # Errors
    /// The [`Fault`], of no write.
    pub(super) async fn simple(&mut self, sql: &str) -> Result<(), Fault> {
        self.run(&[sql], &[]).await
    }

    /// Lets functions of the target find what they name as on the source (P58). Our own statements mean what
    /// they meant: `pg_catalog` stays first, and beyond it they qualify every name.
    ///
    /// It lasts as the transaction does: for good if that commits.
    pub(super) async fn lend_search_path(&mut self) -> Result<()> {
        let Some(path) = &self.search_path else { return Ok(()) };
        let path = quote_literal(&format!("pg_catalog, {path}"));
        let set = format!("SELECT pg_catalog.set_config('search_path', {path}, false)");
        self.connection.query(&set).await.map(drop)
    }

    /// Executes the statements of `prologue`, then `writes`, without waiting in between, and compares the rows that
    /// they touch.
    ///
    /// # Errors
    /// The first [`Fault`]; what came after it may have been executed or not: roll back.
    pub(super) async fn run(&mut self, prologue: &[&str], writes: &[&Write]) -> Result<(), Fault> {
        let bare = prologue.iter().map(|sql| Sent::bare(sql));
        let sent: Vec<Sent<'_>> = bare.chain(writes.iter().map(|write| Sent::plain(write))).collect();
        let touched = self.send(&sent).await.map_err(|(at, cause)| located(at, prologue, cause))?;
        compare(writes, touched.get(prologue.len()..).unwrap_or_default())
    }

    /// The same with COMMIT in one go, for few rows: each statement fails by itself unless it touches as many rows as it
    /// must, and after a fault the server passes over all the rest.
    ///
    /// # Errors
    /// The first [`Fault`]; that of COMMIT comes behind the last write. Nothing was committed.
    pub(super) async fn run_and_commit(&mut self, prologue: &[&str], writes: &[&Write]) -> Result<(), Fault> {
        let bare = prologue.iter().map(|sql| Sent::bare(sql));
        let counted = writes.iter().map(|write| Sent::counted(write));
        let sent: Vec<Sent<'_>> = bare.chain(counted).chain([Sent::bare(COMMIT)]).collect();
        let sending = self.send(&sent).await;
        sending.map(drop).map_err(|(at, cause)| {
            let mut fault = located(at, prologue, cause);
            let expects =
                fault.at.and_then(|at| writes.get(at)).is_some_and(|write| write.touches != Touches::Any);
            fault.cause = match fault.cause {
                FaultCause::Server(error)
                    if expects && error.sqlstate == Some(SqlState::DIVISION_BY_ZERO) =>
                {
                    FaultCause::Miscounted
                }
                cause => cause,
            };
            fault
        })
    }

    /// The rows that each statement touched; or which of them was the first to fail, if it was one.
    async fn send(&mut self, sent: &[Sent<'_>]) -> Result<Vec<u64>, (Option<usize>, FaultCause)> {
        let Lane { connection, statements, .. } = self;
        let (mut requests, mut number_of) = (Vec::with_capacity(2 * sent.len()), Vec::new());
        statements.begin_run();
        for (number, Sent { sql, content }) in sent.iter().enumerate() {
            let (statement, needs) = statements.get(sql);
            if let Needs::Preparing { instead_of } = needs {
                requests.extend(instead_of.map(|statement| Request::Forget { statement }));
                requests.push(Request::Prepare { statement, sql });
            }
            requests.push(match content {
                Content::Parameters(parameters) => Request::Execute { statement, parameters },
                Content::Rows(rows) => Request::Copy { statement, rows },
            });
            number_of.resize(requests.len(), number);
        }
        let pipelined = connection.pipeline(&requests).await;
        let (at, error) = match pipelined.map_err(|error| (None, FaultCause::Lost(error)))? {
            Pipelined::Done(tags) => {
                let committed =
                    sent.iter().zip(&tags).all(|(sent, tag)| sent.sql != COMMIT || tag.text() == COMMIT);
                return match committed {
                    true => Ok(tags.iter().map(CommandTag::rows).collect()),
                    false => Err((None, FaultCause::Lost(not_committed()))),
                };
            }
            Pipelined::Refused { at, error } => (at, error),
        };
        for request in requests.get(at..).unwrap_or_default() {
            if let Request::Prepare { sql, .. } = request {
                statements.remove(sql);
            }
        }
        let cause = match requests.get(at) {
            Some(Request::Prepare { .. }) => FaultCause::Unprepared(error),
            Some(Request::Execute { .. } | Request::Copy { .. } | Request::Forget { .. }) | None => {
                FaultCause::Server(error)
            }
        };
        Err((number_of.get(at).copied(), cause))
    }
}

/// A statement as it goes to the server.
struct Sent<'a> {
    sql: Cow<'a, str>,
    content: Content<'a>,
}

enum Content<'a> {
    Parameters(Cow<'a, [Payload]>),
    Rows(&'a Bytes),
}

impl<'a> Sent<'a> {
    fn bare(sql: &'a str) -> Sent<'a> {
        Sent { sql: sql.into(), content: Content::Parameters(Cow::Borrowed(&[])) }
    }

    fn plain(write: &'a Write) -> Sent<'a> {
        let content = match &write.body {
            Body::Parameters(parameters) => Content::Parameters(parameters.into()),
            Body::Copy(rows) => Content::Rows(rows),
        };
        Sent { sql: write.sql.as_str().into(), content }
    }

    /// Divides by zero if it touches another number of rows than it must.
    fn counted(write: &'a Write) -> Sent<'a> {
        let (Body::Parameters(parameters), Touches::Exactly(rows)) = (&write.body, write.touches) else {
            return Sent::plain(write);
        };
        let sql = format!(
            "WITH w AS ({} RETURNING 1) SELECT 1 OPERATOR(pg_catalog./) \
             (pg_catalog.count(*) OPERATOR(pg_catalog.=) ${}::pg_catalog.int8)::pg_catalog.int4 FROM w",
            write.sql,
            parameters.len() + 1
        );
        let mut parameters = parameters.clone();
        parameters.push(Payload::Binary(Bytes::copy_from_slice(&rows.to_be_bytes())));
        Sent { sql: sql.into(), content: Content::Parameters(parameters.into()) }
    }
}

/// PostgreSQL tells of a failure before that; what only resembles it may not.
fn not_committed() -> Error {
    Error::new(ErrorKind::Protocol, "commit a group")
        .because("the server rolled it back without naming a reason")
}

/// The fault of a statement, counted from the first write.
fn located(at: Option<usize>, prologue: &[&str], cause: FaultCause) -> Fault {
    Fault { at: at.and_then(|at| at.checked_sub(prologue.len())), cause }
}

fn compare(writes: &[&Write], touched: &[u64]) -> Result<(), Fault> {
    for (at, write) in writes.iter().enumerate() {
        let touched = touched.get(at).copied().unwrap_or(0);
        match write.touches {
            Touches::Exactly(expected) if touched != expected => {
                return Err(Fault { at: Some(at), cause: FaultCause::Touched { expected, touched } });
            }
            Touches::Exactly(_) | Touches::Any => {}
        }
    }
    Ok(())
}

/// Prepared statements by their text; the least recently used one makes room.
#[derive(Debug, Default)]
struct Statements {
    prepared: HashMap<String, Prepared>,
    run: u64,
    last: u64,
}

#[derive(Debug, Clone, Copy)]
struct Prepared {
    statement: StatementId,
    /// In which run last.
    used: u64,
}

/// What is to be done before a statement can be executed.
enum Needs {
    Nothing,
    Preparing { instead_of: Option<StatementId> },
}

impl Statements {
    fn begin_run(&mut self) {
        self.run += 1;
    }

    fn get(&mut self, sql: &str) -> (StatementId, Needs) {
        if let Some(prepared) = self.prepared.get_mut(sql) {
            prepared.used = self.run;
            return (prepared.statement, Needs::Nothing);
        }
        let instead_of = if self.prepared.len() >= STATEMENTS_MAX { self.make_room() } else { None };
        self.last += 1;
        let statement = StatementId(self.last);
        self.prepared.insert(sql.to_owned(), Prepared { statement, used: self.run });
        (statement, Needs::Preparing { instead_of })
    }

    /// Gives up the statement that was not used for longest, if it is none of this run.
    fn make_room(&mut self) -> Option<StatementId> {
        let (sql, oldest) = self.prepared.iter().min_by_key(|(_, prepared)| prepared.used)?;
        let (sql, statement) = (sql.clone(), oldest.statement);
        if oldest.used == self.run {
            return None;
        }
        self.prepared.remove(&sql);
        Some(statement)
    }

    fn remove(&mut self, sql: &str) {
        self.prepared.remove(sql);
    }
}
