//! Looks how far the builds are that run, for whoever watches.
//!
//! Hazard: nobody's work may wait for it. So it has a session of its own, which is there only while builds run
//! and somebody looks; and what it cannot learn (a server before 12, a view that is not there) is not shown.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::run::Run;
use crate::error::{Error, Result, describe};
use crate::pg::{Conninfo, QualifiedName};
use crate::telemetry::{BuildStep, DatabaseMetrics, Progress, RunningBuild};
use crate::wire::{Session, SessionSettings};

/// The role in the name of sessions that build.
pub(super) const ROLE: &str = "build";

/// Between two looks, and before the first: what takes less need not be looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// The first major with `pg_stat_progress_create_index`.
const TOLD_SINCE: u32 = 12;

/// Watches the builds of one database.
pub(super) struct BuildWatch {
    target: Conninfo,
    progress: Progress,
    metrics: DatabaseMetrics,
    /// How many run now, as the builder says.
    running: Arc<AtomicUsize>,
    is_wanted: bool,
}

impl BuildWatch {
    pub(super) fn of(run: &Run, running: Arc<AtomicUsize>) -> BuildWatch {
        let is_seen = run.progress.is_shown() || run.metrics.are_on();
        BuildWatch {
            target: run.options.target.clone(),
            progress: run.progress.clone(),
            metrics: run.metrics.clone(),
            running,
            is_wanted: is_seen && run.target_version.major() >= TOLD_SINCE,
        }
    }

    /// Runs `work`, and shows meanwhile how far the builds are.
    pub(super) async fn beside<T>(self, work: impl Future<Output = T>) -> T {
        let done = tokio::select! {
            done = work => done,
            never = self.watch() => match never {},
        };
        if self.is_wanted {
            self.show(Vec::new());
        }
        done
    }

    async fn watch(&self) -> Infallible {
        if !self.is_wanted {
            return std::future::pending().await;
        }
        let mut session = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            if self.running.load(Ordering::Relaxed) == 0 {
                // Whoever has nothing to look at holds no connection.
                if session.take().is_some() {
                    self.show(Vec::new());
                }
                continue;
            }
            match self.look(&mut session).await {
                Ok(builds) => self.show(builds),
                Err(error) => {
                    tracing::debug!(error = %describe(&error), "builds cannot be looked at");
                    session = None;
                }
            }
        }
    }

    async fn look(&self, session: &mut Option<Session>) -> Result<Vec<RunningBuild>> {
        let session = match session.take() {
            Some(kept) => session.insert(kept),
            None => session.insert(Session::connect(&self.target, &SessionSettings::role("watch")).await?),
        };
        running(session).await
    }

    fn show(&self, builds: Vec<RunningBuild>) {
        for step in BuildStep::ALL {
            let count = builds.iter().filter(|build| build.step == *step).count();
            self.metrics.index_builds(*step, count as u64);
        }
        self.progress.builds_running(builds);
    }
}

/// The builds of any engine of ours that run in this database, on the largest table first; none on a server that does
/// not tell.
///
/// # Errors
/// As [`Error::from_postgres`].
pub(super) async fn running(target: &Session) -> Result<Vec<RunningBuild>> {
    const SQL: &str = "
        SELECT p.phase, n.nspname, c.relname, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total
          FROM pg_catalog.pg_stat_progress_create_index AS p
          JOIN pg_catalog.pg_stat_activity AS a ON a.pid = p.pid
          JOIN pg_catalog.pg_class AS c ON c.oid = p.relid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE a.datname = pg_catalog.current_database() AND a.application_name = 'pgstream ' || $1::text
         ORDER BY c.relpages DESC, a.xact_start";
    if target.version().major() < TOLD_SINCE {
        return Ok(Vec::new());
    }
    let rows = target
        .query(SQL, &[&ROLE])
        .await
        .map_err(|error| Error::from_postgres("look how far builds are", error))?;
    let build = |row: &tokio_postgres::Row| {
        let number = |at: usize| u64::try_from(row.get::<_, Option<i64>>(at).unwrap_or(0)).unwrap_or(0);
        let step = step(row.get::<_, Option<&str>>(0).unwrap_or_default());
        // Reading is counted in blocks, writing in rows.
        let (done, total) = match step {
            BuildStep::Scanning => (number(3), number(4)),
            BuildStep::Loading => (number(5), number(6)),
            BuildStep::Sorting | BuildStep::Other => (0, 0),
        };
        let table = QualifiedName::new(row.get::<_, &str>(1), row.get::<_, &str>(2)).plain();
        RunningBuild { table, step, done, total }
    };
    Ok(rows.iter().map(build).collect())
}

/// What the server calls it (docs: `progress-reporting`, CREATE INDEX Phases).
fn step(phase: &str) -> BuildStep {
    match phase {
        "building index: scanning table" => BuildStep::Scanning,
        "building index: sorting live tuples" => BuildStep::Sorting,
        "building index: loading tuples in tree" => BuildStep::Loading,
        _ => BuildStep::Other,
    }
}
