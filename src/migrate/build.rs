//! Builds indexes and constraints on a budget of connections, behind the copy and after it.
//!
//! Hazard: foreign keys built side by side lock two tables each, and may deadlock; the loser is simply
//! built again. An index that cannot be built (duplicate keys in the source, P50) stops the migration: a
//! target without it would take what the source refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::build_watch::{self, BuildWatch};
use super::run::Run;
use super::state;
use super::tables::TableGauge;
use crate::bulk::{Budget, CopyEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, QualifiedName};
use crate::schema::{Build, BuildSettings, Flush, Schedule, build, build_together};
use crate::telemetry::{self, DatabaseMetrics, Progress, TableState};
use crate::wire::{Session, SessionSettings};

/// Builds on tables up to this size are made several at a time: there, the commit is the work.
const SMALL_BYTES: u64 = 256 << 10;
/// Builds of one transaction.
const TOGETHER_MAX: usize = 64;

/// Runs builds as they become ready, and tells of them.
pub(super) struct Builder {
    watch: BuildWatch,
    crew: Crew,
}

/// Those who build.
struct Crew {
    schedule: Schedule,
    jobs: usize,
    budget: Budget,
    target: Conninfo,
    session: SessionSettings,
    settings: BuildSettings,
    progress: Progress,
    metrics: DatabaseMetrics,
    tables: TableGauge,
    headway: Arc<AtomicBool>,
    idle: Vec<Session>,
    /// How many of them there are, for who watches.
    at_work: Arc<AtomicUsize>,
    running: JoinSet<(Vec<Build>, Result<Session>)>,
}

impl Builder {
    /// Takes builds, and the sizes of the tables whose rows are still to come.
    pub(super) async fn new(
        run: &Run,
        builds: Vec<Build>,
        copied: impl Fn(&QualifiedName) -> Option<u64>,
        settings: BuildSettings,
    ) -> Result<Builder> {
        run.progress.builds(builds.len() as u64);
        let session = SessionSettings::role(build_watch::ROLE);
        // The note of a build is behind it in the WAL, and no phase is entered but by a session older than both.
        let session = match Flush::of(&run.target_may) {
            Flush::AtCommit => session,
            Flush::WithTheNote => session.set("synchronous_commit", "off"),
        };
        let at_work = Arc::new(AtomicUsize::new(0));
        let watch = BuildWatch::of(run, Arc::clone(&at_work));
        let crew = Crew {
            schedule: Schedule::new(builds, copied),
            jobs: run.options.index_jobs.get(),
            budget: run.budgets.builds.clone(),
            target: run.options.target.clone(),
            session,
            settings,
            progress: run.progress.clone(),
            metrics: run.metrics.clone(),
            tables: run.tables.clone(),
            headway: Arc::clone(&run.headway),
            idle: Vec::new(),
            at_work,
            running: JoinSet::new(),
        };
        Ok(Builder { watch, crew })
    }

    /// Builds everything, each as soon as its table's rows are there; ends when all is built and no more
    /// tables can come.
    ///
    /// # Cancel safety
    /// Dropping it ends the sessions; what they had not finished is rolled back.
    pub(super) async fn run(self, events: mpsc::Receiver<CopyEvent>) -> Result<()> {
        let (watch, crew) = (self.watch, self.crew);
        watch.beside(crew.run(events)).await
    }
}

impl Crew {
    async fn run(mut self, mut events: mpsc::Receiver<CopyEvent>) -> Result<()> {
        let mut more = true;
        loop {
            self.start_ready();
            self.at_work.store(self.running.len(), Ordering::Relaxed);
            if !more && self.running.is_empty() {
                break;
            }
            tokio::select! {
                event = events.recv(), if more => match event {
                    Some(CopyEvent::Started { name, bytes }) => {
                        self.tables.set([&name], TableState::Copying);
                        self.progress.table_started(&name.plain(), bytes);
                    }
                    Some(CopyEvent::Done(table)) => {
                        self.progress.table_done(telemetry::CopiedTable {
                            name: &table.name.plain(),
                            rows: table.rows,
                            bytes: table.bytes,
                            elapsed: table.elapsed,
                        });
                        self.metrics.copied_rows(table.rows);
                        self.tables.set([&table.name], TableState::Building);
                        self.schedule.release(&table.name);
                        self.headway.store(true, Ordering::Relaxed);
                    }
                    None => more = false,
                },
                Some(ended) = self.running.join_next() => {
                    let (done, built) =
                        ended.map_err(|cause| Error::new(ErrorKind::Bug, "run an index build").because(cause))?;
                    let session = built?;
                    for build in done {
                        self.progress.build_done(build.name.raw());
                        self.schedule.finish(build.id);
                    }
                    self.headway.store(true, Ordering::Relaxed);
                    // Without a turn no connection is ours while others wait for one.
                    if !self.budget.is_contended() {
                        self.idle.push(session);
                    }
                }
            }
        }
        match self.schedule.left() {
            0 => Ok(()),
            left => Err(Error::new(
                ErrorKind::Bug,
                format!("build everything: {left} builds wait for each other"),
            )),
        }
    }

    fn start_ready(&mut self) {
        while self.running.len() < self.jobs {
            let builds = self.schedule.take_some(SMALL_BYTES, TOGETHER_MAX, self.jobs);
            if builds.is_empty() {
                break;
            }
            let (idle, target, budget) = (self.idle.pop(), self.target.clone(), self.budget.clone());
            let (opening, settings) = (self.session.clone(), self.settings.clone());
            let work = async move {
                let _turn = budget.take().await;
                let built = async {
                    let session = match idle {
                        Some(session) => session,
                        None => Session::connect(&target, &opening).await?,
                    };
                    build_all(&session, &builds, &settings).await.map(|()| session)
                };
                let built = built.await;
                (builds, built)
            };
            self.running.spawn(work.in_current_span());
        }
    }
}

/// Builds one, or several of small tables, and notes it.
async fn build_all(session: &Session, builds: &[Build], settings: &BuildSettings) -> Result<()> {
    if builds.len() > 1 {
        let note = state::restored_note(builds.iter().map(|build| build.id));
        match build_together(session, builds, settings, &note).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Connect => return Err(error),
            Err(error) => {
                tracing::debug!(error = %crate::error::describe(&error), "small builds go one by one")
            }
        }
    }
    for one in builds {
        build(session, one, settings).await?;
        state::mark_restored(session, &[one.id]).await?;
    }
    Ok(())
}
