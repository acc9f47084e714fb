//! `pgstream worker`: lends hands to the copies that run on a target, from this machine or another.
//!
//! Hazards:
//! - A worker that reads another server than the conductor does would copy other rows: the source must be the one that
//!   the migration began with, and know its snapshot.
//! - A worker outlives what it works for: the conductor may end, be killed or begin another wave at any moment. What it
//!   may do is asked of the target's state, before each wave and in each claim; it keeps none of its own.
//!
//! It makes nothing on the source, decides nothing, and may vanish at any time.

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::lock;
use super::shutdown::Shutdown;
use super::state::{self, State};
use super::{adopt, databases};
use crate::bulk::{self, Budget, CopyEvent, CopyPlan, LoadCommit, Loaded, OpenWave, help_copy};
use crate::error::{Error, ErrorKind, Recovery, Result, Side, describe};
use crate::pg::Conninfo;
use crate::telemetry::{self, Health, HeldUp, Metrics, Phase, Progress};
use crate::wire::{Meter, Session, SessionSettings, Throttle};

/// What a worker is asked to do.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The server that is moved from; its database is the migration's.
    pub source: Conninfo,
    /// The server that is moved to; without a database, all of them.
    pub target: Conninfo,
    /// Connections that copy rows, on each side, for all databases together.
    pub copy_jobs: NonZeroUsize,
    /// Bytes a second, for all databases together; as fast as it goes when not given.
    pub copy_rate: Option<NonZeroU64>,
    /// How long a part waits for a lock on its table (P26).
    pub lock_timeout: Duration,
    /// How long to wait for a copy where none runs.
    pub patience: Duration,
}

/// Who watches a worker, and who may stop it.
#[derive(Debug, Clone)]
pub struct WorkerWatchers {
    /// Progress for people.
    pub progress: Progress,
    /// Metrics of every database.
    pub metrics: Metrics,
    /// What `/healthz` answers.
    pub health: Health,
    /// The operator's wish to stop.
    pub shutdown: Shutdown,
}

/// What a worker has done for one database.
#[derive(Debug, Clone)]
pub struct Worked {
    /// The database's name on the target.
    pub database: String,
    /// What it loaded.
    pub loaded: Arc<Loaded>,
}

/// How a worker ended, and what it had done by then.
#[derive(Debug)]
pub struct WorkerOutcome {
    /// Every database it joined, by name.
    pub databases: Vec<Worked>,
    /// `Cancelled` when it was told to stop.
    pub ended: Result<()>,
    /// From beginning to end.
    pub elapsed: Duration,
}

/// Between two looks at what there is to do. Nothing tells of a copy that begins, nor of a conductor that is gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A snapshot that the source does not know while its wave goes on, for longer than a conductor takes to notice the same.
const STRANGER_AFTER: Duration = Duration::from_secs(60);
/// Waves that break off one after the other before the error counts, when nothing was loaded in between.
const ATTEMPTS: u32 = 10;

/// Works on every copy that runs, until none does.
pub async fn work(options: &WorkerOptions, watchers: &WorkerWatchers) -> WorkerOutcome {
    let started = Instant::now();
    let mut worker = Worker::new(options.clone(), watchers.clone());
    let mut stop = watchers.shutdown.clone();
    let ended = stop.or_stop(worker.run()).await;
    // Dropping the tasks ends their sessions, and the servers roll back what they had not committed.
    worker.tasks.shutdown().await;
    let databases = worker.databases.into_iter();
    let joined = databases.filter(|(_, known)| known.joined.is_some());
    WorkerOutcome {
        databases: joined.map(|(database, known)| Worked { database, loaded: known.loaded }).collect(),
        ended,
        elapsed: started.elapsed(),
    }
}

/// What there is to do in one database.
#[derive(Debug)]
enum Stand {
    /// No migration.
    Nothing,
    /// Its rows are all there.
    Over,
    /// The copy is begun or about to, and nobody conducts it now.
    Orphaned,
    /// A conductor is at work, and no wave is open just now.
    Ahead,
    /// This one is.
    Open(Box<State>, Box<OpenWave>),
}

/// What is known of one database.
#[derive(Debug, Default)]
struct Known {
    loaded: Arc<Loaded>,
    /// The wave that was joined last.
    joined: Option<i64>,
    /// It is joined now.
    is_busy: bool,
    /// What ended the last one, if that was not its end.
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Broken {
    error: Error,
    since: Instant,
    times: u32,
    parts_before: u64,
}

struct Worker {
    options: WorkerOptions,
    watchers: WorkerWatchers,
    budget: Budget,
    throttle: Throttle,
    databases: BTreeMap<String, Known>,
    sessions: HashMap<String, Session>,
    tasks: JoinSet<(String, Result<()>)>,
}

impl Worker {
    fn new(options: WorkerOptions, watchers: WorkerWatchers) -> Worker {
        let throttle = Throttle::default();
        throttle.set(options.copy_rate);
        Worker {
            throttle,
            budget: Budget::new(options.copy_jobs),
            options,
            watchers,
            databases: BTreeMap::new(),
            sessions: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    async fn run(&mut self) -> Result<()> {
        let mut idle_since = Instant::now();
        let mut has_said = false;
        loop {
            self.watchers.health.beat(Instant::now());
            let looked = self.look().await;
            let why = match looked {
                Ok(Idle::No) => {
                    idle_since = Instant::now();
                    has_said = false;
                    None
                }
                Ok(Idle::Over) => return Ok(()),
                Ok(Idle::Without(why)) => Some(why),
                Err(error) if error.recovery() == Recovery::Retry => Some(error),
                Err(error) => return Err(error),
            };
            if let Some(why) = why {
                if idle_since.elapsed() >= self.options.patience {
                    return Err(why);
                }
                if !std::mem::replace(&mut has_said, true) {
                    let patience = telemetry::text::duration(self.options.patience);
                    self.watchers.progress.note(&format!("{}; waiting for {patience}", describe(&why)));
                }
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    let (database, ended) =
                        ended.map_err(|cause| Error::new(ErrorKind::Bug, "run a worker").because(cause))?;
                    self.left(&database, ended).await?;
                }
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Joins every wave that is new, and says whether there is anything to wait for.
    async fn look(&mut self) -> Result<Idle> {
        let settings = SessionSettings::role("worker");
        let none = Error::new(ErrorKind::State, "find a migration on the target")
            .because("none has begun there")
            .hint("Start `pgstream migrate` between the same servers, and this beside it.");
        let mut idle = Idle::Without(none);
        for target in databases::meant(&self.options.target, &settings).await? {
            let name = target.database().to_owned();
            if self.databases.get(&name).is_some_and(|known| known.is_busy) {
                idle = Idle::No;
                continue;
            }
            match self.stand(&name, &target, &settings).await? {
                Stand::Nothing => {}
                Stand::Over => {
                    if !matches!(idle, Idle::No) {
                        idle = Idle::Over;
                    }
                }
                Stand::Orphaned => {
                    if !matches!(idle, Idle::No) {
                        let orphaned =
                            Error::new(ErrorKind::State, format!("find who migrates into database {name}"))
                                .because("`pgstream migrate` is not running")
                                .hint("Run the same command again, and this beside it.");
                        idle = Idle::Without(orphaned);
                    }
                }
                Stand::Ahead => idle = Idle::No,
                Stand::Open(state, wave) => {
                    idle = Idle::No;
                    self.join(name, target, *state, *wave)?;
                }
            }
        }
        // What it had joined may be complete, and its records with it.
        let has_worked = self.databases.values().any(|known| known.joined.is_some());
        Ok(match idle {
            Idle::Without(_) if has_worked && self.is_gone().await? => Idle::Over,
            idle => idle,
        })
    }

    /// Whether no database that was joined holds a migration any more.
    async fn is_gone(&mut self) -> Result<bool> {
        for session in self.sessions.values() {
            if state::find(session).await?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn stand(&mut self, name: &str, target: &Conninfo, settings: &SessionSettings) -> Result<Stand> {
        let session = match self.sessions.remove(name).filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => Session::connect(target, settings).await?,
        };
        let stand = stand(&session).await?;
        self.sessions.insert(name.to_owned(), session);
        Ok(stand)
    }

    /// Joins a wave, unless this process has done with it.
    fn join(&mut self, name: String, target: Conninfo, state: State, wave: OpenWave) -> Result<()> {
        let known = self.databases.entry(name.clone()).or_default();
        match known.broken.take() {
            None if known.joined == Some(wave.number) => return Ok(()),
            None => {}
            Some(broken) => {
                let is_same = known.joined == Some(wave.number);
                if broken.error.kind() == ErrorKind::Snapshot && is_same {
                    if broken.since.elapsed() >= STRANGER_AFTER {
                        return Err(broken.error.hint(
                            "The source does not know the snapshot of the copy that goes on: give --source the very \
                             server that migrate reads, not a standby of it.",
                        ));
                    }
                    known.broken = Some(broken);
                    return Ok(());
                }
                if broken.times >= ATTEMPTS {
                    return Err(broken.error);
                }
                known.broken = Some(broken);
            }
        }
        known.joined = Some(wave.number);
        known.is_busy = true;
        let tables = telemetry::text::counted(wave.tables.len() as u64, "table");
        self.watchers.progress.note(&format!("joining the copy of {name}: {tables}"));
        let several = self.options.target.dbname.is_none();
        let help = Help {
            options: self.options.clone(),
            progress: match several {
                true => self.watchers.progress.of_database(&name, 1),
                false => self.watchers.progress.clone(),
            },
            metrics: self.watchers.metrics.clone(),
            budget: self.budget.clone(),
            meter: Meter::throttled(self.throttle.clone()),
            loaded: Arc::clone(&known.loaded),
            target,
            state,
            wave,
        };
        self.tasks.spawn(async move { (name, help.run().await) }.in_current_span());
        Ok(())
    }

    /// The wave that is open in a database now.
    async fn still_open(&self, name: &str) -> Result<Option<i64>> {
        let Some(session) = self.sessions.get(name) else { return Ok(None) };
        Ok(bulk::open_wave(session).await?.map(|wave| wave.number))
    }

    /// Takes note of how a wave ended here.
    async fn left(&mut self, name: &str, ended: Result<()>) -> Result<()> {
        let known = self.databases.entry(name.to_owned()).or_default();
        known.is_busy = false;
        let error = match ended {
            Ok(()) => {
                known.broken = None;
                return Ok(());
            }
            Err(error) => error,
        };
        if error.recovery() != Recovery::Retry {
            let wave = known.joined;
            // What was cleaned up, or begun anew, takes our statements' ground away, and is no failure.
            return match self.still_open(name).await {
                Ok(number) if number != wave => Ok(()),
                Ok(_) | Err(_) => Err(error),
            };
        }
        let parts = known.loaded.parts();
        let before = known.broken.take().filter(|broken| broken.parts_before == parts);
        let times = before.map_or(0, |broken| broken.times) + 1;
        tracing::warn!(error = %describe(&error), times, "the copy broke off here; looking for it again");
        known.broken = Some(Broken { error, since: Instant::now(), times, parts_before: parts });
        Ok(())
    }
}

/// Whether there is a reason to stay.
#[derive(Debug)]
enum Idle {
    /// A copy runs or is about to.
    No,
    /// All that there was is copied.
    Over,
    /// There is none, for this reason.
    Without(Error),
}

async fn stand(target: &Session) -> Result<Stand> {
    let Some(state) = state::find(target).await? else { return Ok(Stand::Nothing) };
    if state.phase >= Phase::Building {
        return Ok(Stand::Over);
    }
    if lock::holder(target).await?.is_none() {
        return Ok(Stand::Orphaned);
    }
    Ok(match bulk::open_wave(target).await? {
        Some(wave) => Stand::Open(Box::new(state), Box::new(wave)),
        None => Stand::Ahead,
    })
}

/// One wave that is joined.
struct Help {
    options: WorkerOptions,
    progress: Progress,
    metrics: Metrics,
    budget: Budget,
    meter: Meter,
    loaded: Arc<Loaded>,
    target: Conninfo,
    state: State,
    wave: OpenWave,
}

impl Help {
    async fn run(self) -> Result<()> {
        let source = self.same_source().await?;
        let metrics = self.metrics.database(source.conninfo.database());
        let meter = Arc::new(self.meter);
        let wave = self.wave;
        let plan = CopyPlan {
            source: source.conninfo,
            target: self.target,
            source_version: source.version,
            snapshot: wave.snapshot,
            watermark: wave.watermark,
            tables: wave.tables,
            jobs: self.options.copy_jobs.get(),
            budget: self.budget,
            // Parts are cut already.
            split_bytes: 0,
            lock_timeout: self.options.lock_timeout,
            encoding: wave.encoding,
            search_path: wave.search_path,
            replica_role: wave.replica_role,
            // Whether the target lets us do otherwise is not known here.
            commit: LoadCommit::Waits,
            rewritten: wave.rewritten,
            meter: Arc::clone(&meter),
            held_up: HeldUp::new(metrics.clone(), self.progress.clone()),
            begin_until: None,
        };
        self.progress.phase(Phase::Copying);
        self.progress.copy_started(wave.bytes_left, plan.tables.len() as u64);
        let (events, mut copied) = mpsc::channel(64);
        let progress = &self.progress;
        let mut shown = 0;
        let mut show = || {
            let passed = meter.bytes();
            progress.copied(passed - shown);
            metrics.copied_bytes(passed - shown);
            shown = passed;
        };
        let mut work = std::pin::pin!(help_copy(plan, wave.number, self.loaded, events));
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                ended = &mut work => {
                    show();
                    return ended;
                }
                Some(event) = copied.recv() => match event {
                    CopyEvent::Started { name, bytes } => progress.table_started(&name.plain(), bytes),
                    CopyEvent::Done(table) => {
                        progress.table_done(telemetry::CopiedTable {
                            name: &table.name.plain(),
                            rows: table.rows,
                            bytes: table.bytes,
                            elapsed: table.elapsed,
                        });
                        metrics.copied_rows(table.rows);
                    }
                },
                _ = tick.tick() => show(),
            }
        }
    }

    /// The source, if it is the one that the migration began with.
    async fn same_source(&self) -> Result<Source> {
        let given = &self.options.source;
        let wanted = &self.state.source_database;
        if given.dbname.as_ref().is_some_and(|given| given != wanted) {
            return Err(Error::new(ErrorKind::Usage, "join a copy of another database").hint(format!(
                "The target is being filled from database {wanted}: name it in --source, or none."
            )));
        }
        let conninfo = given.with_database(wanted);
        let session = Session::connect(&conninfo, &SessionSettings::role("worker"))
            .await
            .map_err(|error| error.on(Side::Source))?;
        let system = databases::system(&session).await?;
        let began_with = self.state.source_system;
        if began_with.get() != adopt::UNKNOWN && system.is_some_and(|system| system != began_with.to_string())
        {
            return Err(Error::new(ErrorKind::State, "join a copy of another server")
                .hint("The target is being filled from another server than --source: give the one that migrate reads."));
        }
        Ok(Source { version: session.version(), conninfo })
    }
}

struct Source {
    conninfo: Conninfo,
    version: crate::pg::ServerVersion,
}
