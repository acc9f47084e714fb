//! Writers that never stop, for an engine to keep up with.
//!
//! A writer is a naive application: a deadlock or a violated constraint costs it one transaction, a
//! lost connection a new one. Anything else ends it, and [`Workload::stop`] reports it: an engine that
//! makes the source refuse an UPDATE (P06) has harmed the application, and must be seen to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::SimpleQueryMessage;

use crate::demo::dice::Dice;
use crate::demo::script::{Facts, Script};
use crate::error::{Error, ErrorKind, Recovery, Result};
use crate::pg::{Conninfo, Lsn, ServerVersion};
use crate::wire::{Session, SessionSettings};

/// Between attempts to reach a server that is down.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);
const RECONNECTS_MAX: u32 = 600;

/// How hard to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadOptions {
    /// Concurrent sessions.
    pub writers: u16,
    /// Each writer's sequence of transactions follows from this.
    pub seed: u64,
    /// The rows the database was seeded with.
    pub rows: u32,
    /// How long a writer rests between transactions.
    pub pause: Duration,
    /// Rows of the largest transactions.
    pub transaction_rows_max: u32,
}

impl Default for WorkloadOptions {
    fn default() -> WorkloadOptions {
        let pause = Duration::from_millis(2);
        WorkloadOptions { writers: 4, seed: 1, rows: 1000, pause, transaction_rows_max: 20_000 }
    }
}

/// What the writers have done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadCounts {
    /// Transactions committed.
    pub commits: u64,
    /// Rows that committed statements touched, those of triggers and cascades aside.
    pub rows: u64,
    /// Transactions rolled back, on purpose or by a deadlock or a constraint.
    pub rollbacks: u64,
    /// Connections made anew.
    pub reconnects: u64,
}

/// The end of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadReport {
    /// Everything the writers did.
    pub counts: WorkloadCounts,
    /// Every commit of theirs ends at or before this position, which is flushed.
    pub end_lsn: Lsn,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    rows: AtomicU64,
    rollbacks: AtomicU64,
    reconnects: AtomicU64,
    running: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Write,
    Stop,
}

/// Running writers. Dropping it breaks them off wherever they are.
#[derive(Debug)]
pub struct Workload {
    conninfo: Conninfo,
    order: watch::Sender<Order>,
    writers: JoinSet<Result<()>>,
    counters: Arc<Counters>,
}

impl Workload {
    /// Starts the writers on a database that [`crate::demo::seed`] has filled.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn start(conninfo: Conninfo, options: &WorkloadOptions) -> Result<Workload> {
        let (order, orders) = watch::channel(Order::Write);
        let mut workload = Workload { conninfo, order, writers: JoinSet::new(), counters: Arc::default() };
        for number in 0..options.writers {
            let session = connect(&workload.conninfo).await?;
            let writer = Writer {
                facts: Facts {
                    version: version(&session).await?,
                    rows: options.rows,
                    transaction_rows_max: options.transaction_rows_max,
                },
                conninfo: workload.conninfo.clone(),
                session,
                dice: Dice::new(options.seed, number.into()),
                pause: options.pause,
                counters: Arc::clone(&workload.counters),
            };
            let (orders, counters) = (orders.clone(), Arc::clone(&workload.counters));
            counters.running.fetch_add(1, Ordering::Relaxed);
            workload.writers.spawn(async move {
                let outcome = writer.write(orders).await;
                counters.running.fetch_sub(1, Ordering::Relaxed);
                outcome
            });
        }
        Ok(workload)
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> WorkloadCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkloadCounts {
            commits: read(&self.counters.commits),
            rows: read(&self.counters.rows),
            rollbacks: read(&self.counters.rollbacks),
            reconnects: read(&self.counters.reconnects),
        }
    }

    /// How many writers still write; fewer than were started once the source has refused one.
    #[must_use]
    pub fn running(&self) -> usize {
        usize::try_from(self.counters.running.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// Lets every writer finish its transaction, and tells where the source then stands.
    ///
    /// # Errors
    /// What ended a writer before its time; [`ErrorKind::Connect`] when the source is gone.
    pub async fn stop(mut self) -> Result<WorkloadReport> {
        let _ = self.order.send(Order::Stop);
        while let Some(ended) = self.writers.join_next().await {
            ended.map_err(|cause| Error::new(ErrorKind::Bug, "write to the source").because(cause))??;
        }
        let session = connect(&self.conninfo).await?;
        let sql = "SELECT pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text";
        let row = session.query_one(sql, &[]).await;
        let row = row.map_err(|cause| Error::from_postgres("read the source's position", cause))?;
        let end_lsn = row.get::<_, &str>(0).parse();
        let end_lsn = end_lsn.map_err(|cause| Error::new(ErrorKind::Bug, "read an LSN").because(cause))?;
        Ok(WorkloadReport { counts: self.counts(), end_lsn })
    }
}

async fn connect(conninfo: &Conninfo) -> Result<Session> {
    Session::connect(conninfo, &SessionSettings { role: "demo writer", ..SessionSettings::default() }).await
}

async fn version(session: &Session) -> Result<ServerVersion> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
    let row = session.query_one(sql, &[]).await;
    let row = row.map_err(|cause| Error::from_postgres("ask for the server's version", cause))?;
    Ok(ServerVersion::new(u32::try_from(row.get::<_, i32>(0)).unwrap_or_default()))
}

struct Writer {
    conninfo: Conninfo,
    session: Session,
    facts: Facts,
    dice: Dice,
    pause: Duration,
    counters: Arc<Counters>,
}

/// What became of a transaction.
enum Fate {
    Committed { rows: u64 },
    RolledBack,
}

impl Writer {
    async fn write(mut self, mut orders: watch::Receiver<Order>) -> Result<()> {
        let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
        while *orders.borrow_and_update() == Order::Write {
            let script = Script::roll(&mut self.dice, self.facts);
            match self.run(&script).await {
                Ok(Fate::Committed { rows }) => {
                    add(&self.counters.commits, 1);
                    add(&self.counters.rows, rows);
                }
                Ok(Fate::RolledBack) => {
                    add(&self.counters.rollbacks, 1);
                }
                Err(error) if self.session.is_closed() || error.recovery() == Recovery::Retry => {
                    add(&self.counters.reconnects, 1);
                    self.reconnect(error, &mut orders).await?;
                }
                Err(error) => return Err(error),
            }
            // A closed channel means that nobody will ever read what we write.
            if tokio::time::timeout(self.pause, orders.changed()).await.is_ok_and(|told| told.is_err()) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn run(&self, script: &Script) -> Result<Fate> {
        let outcome = match script {
            Script::Transaction(sql) => self.commands(&format!("BEGIN; {sql}; COMMIT")).await,
            Script::Abandoned(sql) => self.commands(&format!("BEGIN; {sql}; ROLLBACK")).await,
            Script::Copy { statement, lines } => self.copy(statement, lines).await,
        };
        match outcome {
            Ok(_) if matches!(script, Script::Abandoned(_)) => Ok(Fate::RolledBack),
            Ok(rows) => Ok(Fate::Committed { rows }),
            Err(cause) => {
                let class = cause.code().map(|code| code.code().get(..2).unwrap_or_default().to_owned());
                let error = Error::from_postgres(format!("run {script:?}"), cause);
                // Lost to a deadlock or a serialization failure; a constraint said no.
                if matches!(class.as_deref(), Some("40" | "23")) {
                    let rollback = self.session.batch_execute("ROLLBACK").await;
                    rollback.map_err(|cause| Error::from_postgres("roll back", cause))?;
                    return Ok(Fate::RolledBack);
                }
                Err(error)
            }
        }
    }

    async fn commands(&self, sql: &str) -> Result<u64, tokio_postgres::Error> {
        let messages = self.session.simple_query(sql).await?;
        let rows = messages.iter().map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => *rows,
            _ => 0,
        });
        Ok(rows.sum())
    }

    async fn copy(&self, statement: &str, lines: &str) -> Result<u64, tokio_postgres::Error> {
        let sink = self.session.copy_in::<_, bytes::Bytes>(statement).await?;
        futures_util::pin_mut!(sink);
        sink.send(bytes::Bytes::copy_from_slice(lines.as_bytes())).await?;
        sink.finish().await
    }

    /// Waits out a server's restart.
    async fn reconnect(&mut self, lost: Error, orders: &mut watch::Receiver<Order>) -> Result<()> {
        let mut last = lost;
        for _ in 0..RECONNECTS_MAX {
            match connect(&self.conninfo).await {
                Ok(session) => {
                    self.session = session;
                    return Ok(());
                }
                Err(error) if error.recovery() == Recovery::Retry => last = error,
                Err(error) => return Err(error),
            }
            if *orders.borrow() == Order::Stop {
                break;
            }
            let _ = tokio::time::timeout(RECONNECT_INTERVAL, orders.changed()).await;
        }
        Err(last)
    }
}
