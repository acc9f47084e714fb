//! What a migration is asked to do, as plain data.
//!
//! Hazard: an option that the engine reads and then does not honour is worse than none. What stands here is
//! honoured; what is not honoured yet is not here.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::apply::ApplyLanes;
use crate::catalog::{Filters, TableSelector};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Conninfo;
use crate::precheck::{self, CheckChoice, MethodChoice};

/// When a migration that has caught up ends. The copy, the builds and the first catch-up always happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// Follow until interrupted; slot and publication stay, and running again goes on from there.
    #[default]
    Interrupt,
    /// End at the first moment when everything committed on the source before it is applied and durable on
    /// the target; slot and publication stay, as above.
    CaughtUp,
    /// End once every table is copied and the WAL not yet applied is at most `max_lag_bytes`; then remove
    /// slot, publication and all else that we made on the source. Final.
    ///
    /// aiven-db-migrate's `--max-replication-lag` and `--stop-replication`, which there could end before the
    /// tables were filled.
    Stop {
        /// Bytes of WAL that may remain; what is committed on the source after the end is not moved.
        max_lag_bytes: u64,
    },
}

/// What to do with tables that have no key to find a row by (P06, P09).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Full {
    /// Nothing: such a table blocks the migration unless it is named in one of the lists.
    #[default]
    No,
    /// Set REPLICA IDENTITY FULL on them for the time of the migration.
    Keyless,
}

/// How tables whose updates cannot be published are carried; tables are named as the operator wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentityChoice {
    /// What to do with keyless tables that neither list names.
    pub full: Full,
    /// Tables that only ever grow: publish INSERT and TRUNCATE alone.
    pub insert_only: Vec<String>,
}

impl IdentityChoice {
    /// The method chosen, or replication where the choice is left to us: who says how tables are to be published
    /// wants them to be.
    #[must_use]
    pub fn method(&self, chosen: MethodChoice) -> MethodChoice {
        let insists = self.full == Full::Keyless || !self.insert_only.is_empty();
        if chosen == MethodChoice::Auto && insists { MethodChoice::Replication } else { chosen }
    }

    /// The choice with its table names read.
    ///
    /// # Errors
    /// `Usage` for a name that is none.
    pub fn read(&self) -> Result<precheck::IdentityChoice> {
        let selectors = |names: &[String]| -> Result<Vec<TableSelector>> {
            let read = |name: &String| {
                name.parse().map_err(|cause| {
                    Error::new(ErrorKind::Usage, format!("read the table name {name}")).because(cause)
                })
            };
            names.iter().map(read).collect()
        };
        Ok(precheck::IdentityChoice {
            full: match self.full {
                Full::No => precheck::FullIdentity::Refused,
                Full::Keyless => precheck::FullIdentity::Accepted,
            },
            insert_only: selectors(&self.insert_only)?,
        })
    }
}

/// What becomes of the migration's records on the target, schema `pgstream`, when it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Records {
    /// They are removed.
    #[default]
    Remove,
    /// They stay, in the phase that says so, until every database of the command is complete: a second run of
    /// it then knows this database from one that was full before.
    Keep,
}

/// What is done by itself when the source's definitions change while it is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoDdl {
    /// Nothing: changes wait until the operator has altered the target.
    #[default]
    Off,
    /// Added columns, widened types, new enum values and new partitions are made on the target, too.
    Additive,
}

/// Whether changes that the target cannot take yet may wait on local disk, so that the source is rid of its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spooling {
    /// The source keeps its WAL until the target has the changes.
    Off,
    /// They may, where there is a disk that lasts.
    On {
        /// The most bytes that may lie there; half of what is free when not given.
        bytes_max: Option<u64>,
    },
}

impl Default for Spooling {
    fn default() -> Spooling {
        Spooling::On { bytes_max: None }
    }
}

/// What becomes of rows that the target refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quarantine {
    /// They end the run.
    #[default]
    Stop,
    /// Each is parked on the target, with its later changes.
    Park,
    /// What is parked is applied first; what is refused still stays parked, and what comes is parked, too.
    Replay,
    /// What is parked is given up; what comes ends the run.
    Discard,
}

impl Quarantine {
    /// Whether what comes may be parked.
    #[must_use]
    pub fn parks(self) -> bool {
        match self {
            Quarantine::Park | Quarantine::Replay => true,
            Quarantine::Stop | Quarantine::Discard => false,
        }
    }
}

/// What the operator gives each index build; what is not given is shared out by what the target says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BuildAllowance {
    /// `maintenance_work_mem`, in bytes.
    pub memory_bytes: Option<u64>,
    /// `max_parallel_maintenance_workers`.
    pub parallel_workers: Option<u32>,
}

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// A table on stderr.
    #[default]
    Human,
    /// One JSON document on stdout.
    Json,
}

/// Everything `migrate` can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The server to move from.
    pub source: Conninfo,
    /// The server to move to.
    pub target: Conninfo,
    /// How the rows travel.
    pub method: MethodChoice,
    /// Where `pg_dump` and `pg_restore` are; searched for when not given.
    pub pgbin: Option<PathBuf>,
    /// Connections that copy rows, on each side.
    pub copy_jobs: NonZeroUsize,
    /// Bytes a second that all databases together may copy at most.
    pub copy_rate: Option<NonZeroU64>,
    /// Connections that apply changes to the target while it lags.
    pub apply_lanes: ApplyLanes,
    /// Connections that make tables, and later build indexes and constraints, on the target.
    pub index_jobs: NonZeroUsize,
    /// What each build may use of the target.
    pub build_allowance: BuildAllowance,
    /// A larger table is copied in parts of about this size.
    pub split_bytes: u64,
    /// No table's copy is begun under a snapshot older than this: what is left waits for a later one, so that the
    /// source's VACUUM is held back no longer than that and one table take. Of a dump there is one snapshot.
    pub snapshot_age_max: Option<Duration>,
    /// When to end.
    pub ending: Ending,
    /// What is done about DDL on the source.
    pub auto_ddl: AutoDdl,
    /// What becomes of rows that the target refuses.
    pub quarantine: Quarantine,
    /// What to do with tables without a key.
    pub identity: IdentityChoice,
    /// What is moved at all; a migration goes on with the choice that it began with.
    pub filters: Filters,
    /// What the checks are told.
    pub checks: CheckChoice,
    /// Where metrics are served; nowhere when not given.
    pub metrics_addr: Option<SocketAddr>,
    /// What is left on the target at the end.
    pub records: Records,
    /// How the result is written.
    pub output: Output,
    /// Where the dump archive and spooled changes lie; `/tmp` and `/var/tmp` when not given.
    pub work_dir: Option<PathBuf>,
    /// Whether changes may wait on local disk.
    pub spooling: Spooling,
    /// They do once the source keeps more WAL than this for us.
    pub spool_after_bytes: u64,
    /// The longest that one statement of ours may wait for a lock (P26).
    pub lock_timeout: Duration,
    /// How long to wait in all for the source's writing transactions to end, so that the slot can be made
    /// (P12); each try holds out for `lock_timeout`.
    pub slot_wait: Duration,
    /// Between two reports of positions to the source.
    pub status_interval: Duration,
}

impl Options {
    /// More copy connections than this rarely help and may starve the source's own clients.
    pub const COPY_JOBS_MAX_DEFAULT: usize = 8;
    /// Builds that share the target's memory and disks.
    pub const INDEX_JOBS_DEFAULT: usize = 4;
    /// Small enough that a lost part costs seconds, large enough that its COPY's start and end do not show.
    pub const SPLIT_BYTES_DEFAULT: u64 = 1 << 30;
    /// No source is hurt by keeping this much, and a small database is copied before it has written it.
    pub const SPOOL_AFTER_BYTES_DEFAULT: u64 = 256 << 20;
    /// Longer, and the readers that queue behind our waiting lock notice (P26).
    pub const LOCK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
    /// An ordinary batch job ends within this; an abandoned session never does.
    pub const SLOT_WAIT_DEFAULT: Duration = Duration::from_secs(30 * 60);
    /// The source frees WAL by these reports, and a second of WAL is cheap to keep.
    pub const STATUS_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

    /// The defaults for these two servers.
    #[must_use]
    pub fn new(source: Conninfo, target: Conninfo) -> Options {
        Options {
            source,
            target,
            method: MethodChoice::default(),
            pgbin: None,
            copy_jobs: Options::default_copy_jobs(),
            copy_rate: None,
            apply_lanes: ApplyLanes::default(),
            index_jobs: NonZeroUsize::new(Options::INDEX_JOBS_DEFAULT).expect("a positive constant"),
            build_allowance: BuildAllowance::default(),
            split_bytes: Options::SPLIT_BYTES_DEFAULT,
            snapshot_age_max: None,
            ending: Ending::default(),
            auto_ddl: AutoDdl::default(),
            quarantine: Quarantine::default(),
            identity: IdentityChoice::default(),
            filters: Filters::default(),
            checks: CheckChoice::default(),
            metrics_addr: None,
            records: Records::default(),
            output: Output::default(),
            work_dir: None,
            spooling: Spooling::default(),
            spool_after_bytes: Options::SPOOL_AFTER_BYTES_DEFAULT,
            lock_timeout: Options::LOCK_TIMEOUT_DEFAULT,
            slot_wait: Options::SLOT_WAIT_DEFAULT,
            status_interval: Options::STATUS_INTERVAL_DEFAULT,
        }
    }

    /// The method wanted, the other options considered: with one that has no meaning without replication, a check
    /// that speaks against replication blocks, and no dump takes its place.
    #[must_use]
    pub fn method_wanted(&self) -> MethodChoice {
        match self.method {
            MethodChoice::Auto if self.ending == Ending::CaughtUp => MethodChoice::Replication,
            chosen => self.identity.method(chosen),
        }
    }

    /// Two for each core of this machine, whose share is moving bytes, up to
    /// [`Options::COPY_JOBS_MAX_DEFAULT`].
    #[must_use]
    pub fn default_copy_jobs() -> NonZeroUsize {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let most = NonZeroUsize::new(Options::COPY_JOBS_MAX_DEFAULT).expect("a positive constant");
        cores.saturating_mul(NonZeroUsize::MIN.saturating_add(1)).min(most)
    }
}
