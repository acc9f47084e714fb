//! The command line, as clap reads it.
//!
//! Hazard: connection strings hold passwords. They are read into [`Secret`] at once, never become a default
//! that help could print, and no message of the parser reaches the screen as it is (see `misuse.rs`).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind as ClapKind;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};

pub use self::files::Files;
pub(super) use self::files::SpoolArgs;
use super::misuse::Misuse;
use super::pg_migrate::{self, PgMigrateArgs};
use super::quantity::{self, Limit, TableList};
use super::selection::{self, Databases, RoleArgs};
use super::worker::WorkerArgs;
use crate::apply::ApplyLanes;
use crate::error::Error;
use crate::pg::Secret;

const EXITS: &str = "\
Exit status: 0 done, or interrupted in step; 1 failed, running again is safe; 2 bad usage;
3 a check blocks the migration; 4 verification found differences.";

/// Moves live PostgreSQL databases from one server to another.
#[derive(Debug, Parser)]
#[command(name = "pgstream", version, after_help = EXITS, max_term_width = 100)]
#[command(disable_help_subcommand = true, subcommand_required = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at both servers and say what stands in the way of a migration; change nothing.
    #[command(after_help = EXITS)]
    Check(Box<CheckArgs>),
    /// Move a database: definitions, rows, then every change, until told to stop.
    #[command(after_help = EXITS)]
    Migrate(Box<MigrateArgs>),
    /// Help a migration to copy: take parts of the copies that run on the target, from this machine or another.
    #[command(after_help = EXITS)]
    Worker(WorkerArgs),
    /// Say how far a migration is, from what it keeps on the target and its slot on the source.
    #[command(after_help = EXITS)]
    Status(StatusArgs),
    /// Remove everything that pgstream made on either server; one of the two is enough.
    #[command(after_help = EXITS)]
    Cleanup(CleanupArgs),
    /// Take aiven-db-migrate's place: its options, its defaults, all databases of a server.
    #[command(name = "pg_migrate", visible_alias = "pg-migrate", infer_long_args = true, after_help = EXITS)]
    PgMigrate(Box<PgMigrateArgs>),
    /// Show a whole migration on two throwaway servers of this machine.
    Demo(DemoArgs),
}

/// The two ends.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Servers")]
pub struct Servers {
    /// The server to move from: a URI or `key=value` string, as psql takes it [env: SOURCE_SERVICE_URI].
    /// Other users see a command line: keep passwords in the variable, PGPASSFILE or a service file.
    #[arg(short, long, value_name = "DSN", value_parser = secret)]
    pub source: Option<Secret>,
    /// The server to move to [env: TARGET_SERVICE_URI].
    #[arg(short, long, value_name = "DSN", value_parser = secret)]
    pub target: Option<Secret>,
}

/// What to do with tables whose updates and deletes cannot be published.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Tables")]
pub struct Identity {
    /// Set REPLICA IDENTITY FULL on tables without a key while the migration lasts.
    #[arg(long, value_name = "full", hide_possible_values = true)]
    pub replica_identity: Option<ReplicaIdentity>,
    /// Publish only INSERT and TRUNCATE of these tables, which never see an UPDATE or DELETE; repeatable.
    #[arg(long, value_name = "TABLE,…", value_parser = quantity::tables)]
    pub insert_only: Vec<TableList>,
}

/// What of each database is moved.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    next_help_heading = "What is moved (names as in SQL, * and ? as patterns, comma-separated, repeatable)"
)]
pub struct Filters {
    /// Move only these schemas.
    #[arg(long, value_name = "[DB.]SCHEMA,…", value_parser = quantity::names)]
    pub include_schema: Vec<TableList>,
    /// Leave these schemas out, definitions and rows.
    #[arg(long, value_name = "[DB.]SCHEMA,…", value_parser = quantity::names)]
    pub exclude_schema: Vec<TableList>,
    /// Move the rows of these tables only; every definition is moved.
    #[arg(long, value_name = "[[DB.]SCHEMA.]TABLE,…", value_parser = quantity::tables)]
    pub with_table: Vec<TableList>,
    /// Move the definitions of these tables, not their rows.
    #[arg(long, value_name = "[[DB.]SCHEMA.]TABLE,…", value_parser = quantity::tables)]
    pub skip_table: Vec<TableList>,
    /// Leave these extensions out, with whatever else than a table depends on them.
    #[arg(long, value_name = "[DB.]EXTENSION,…", alias = "exclude-extension", value_parser = quantity::names)]
    pub excluded_extensions: Vec<TableList>,
    /// Move what users put into extensions' configuration tables; this is the default.
    #[arg(long)]
    pub replicate_extension_tables: bool,
    /// Leave extensions' configuration tables as CREATE EXTENSION fills them.
    #[arg(long)]
    pub no_replicate_extension_tables: bool,
    /// Let the role we connect as own everything on the target; grants are moved all the same.
    #[arg(long)]
    pub no_owner: bool,
}

/// The values of `--replica-identity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReplicaIdentity {
    /// FULL, on tables without a key.
    Full,
}

/// The values of `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    /// Replication where its checks pass, else the dump; replication where another option asks for it.
    Auto,
    /// The same, whatever the other options; the name is aiven-db-migrate's.
    #[value(name = "replication_with_dump_fallback", hide = true)]
    Fallback,
    /// Copy, then every change.
    Replication,
    /// Copy under one snapshot, and no more.
    Dump,
}

/// What the checks are told.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Checks")]
pub struct Checks {
    /// Let a target of an older version than the source pass with a warning.
    #[arg(long)]
    pub skip_db_version_check: bool,
    /// The room that is left on the target's disk, which no SQL tells.
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    pub target_free_bytes: Option<u64>,
    /// Refuse to move more than this, all databases together; tables left out do not count [default: -1, any].
    #[arg(long, value_name = "SIZE", value_parser = quantity::limit, allow_negative_numbers = true)]
    pub dbs_max_total_size: Option<Limit>,
    /// Restore the definitions once for trial, into a scratch database on the target that is dropped again.
    #[arg(long)]
    pub trial_restore: bool,
}

/// When to end.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Ending (by default: follow until interrupted)")]
pub struct EndingArgs {
    /// End once everything committed on the source is on the target; running again goes on from there.
    #[arg(long, value_name = "caught-up", hide_possible_values = true)]
    pub until: Option<Until>,
    /// End once caught up, and remove the slot and all else of ours from the source.
    #[arg(long)]
    pub stop_replication: bool,
    /// Let --stop-replication stop while this much WAL is not yet applied; without it, none may be left.
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    pub max_replication_lag: Option<u64>,
}

/// The values of `--until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// Nothing committed is left to apply.
    CaughtUp,
}

/// How hard to work, and how long to wait.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Speed and patience")]
pub struct Pace {
    /// Connections that copy rows [default: two for each core of this machine, at most 8].
    #[arg(short = 'j', long, value_name = "N", value_parser = quantity::jobs)]
    pub copy_jobs: Option<NonZeroUsize>,
    /// Copy no more than this a second, all databases and connections together, such as 50MB [default: any].
    #[arg(long, value_name = "SIZE", value_parser = quantity::rate)]
    pub copy_rate: Option<NonZeroU64>,
    /// Connections that apply changes while the target lags; auto adds some while that makes it faster [default: auto].
    #[arg(long, value_name = "auto|N", value_parser = quantity::lanes)]
    pub apply_lanes: Option<ApplyLanes>,
    /// Connections that make tables and build indexes on the target [default: 4].
    #[arg(long, value_name = "N", value_parser = quantity::jobs)]
    pub index_jobs: Option<NonZeroUsize>,
    /// Give each index build this much memory [default: a share of what the target's settings speak of].
    #[arg(long, value_name = "SIZE", value_parser = quantity::memory)]
    pub maintenance_work_mem: Option<u64>,
    /// Let each index build have this many parallel workers [default: its share of the target's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub max_parallel_maintenance_workers: Option<u32>,
    /// Copy larger tables in parts of this size [default: 1GB].
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    pub split_tables_larger_than: Option<u64>,
    /// Begin no table's copy under a snapshot older than this: take a later one for what is left, so that VACUUM on
    /// the source is not held back for the whole of a long copy [default: one snapshot for all].
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    pub snapshot_max_age: Option<Duration>,
    /// Wait this long for any one lock [default: 60s].
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    pub lock_timeout: Option<Duration>,
    /// Wait this long for open transactions on the source to end, before giving up [default: 30min].
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    pub slot_wait: Option<Duration>,
    /// Report positions to the source this often [default: 1s].
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    pub status_interval: Option<Duration>,
}

/// What is said, where and how much.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Talk {
    /// Print the result as one JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    /// Say more: phases (-v), transactions and tables (-vv), everything (-vvv).
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// The same as -vv.
    #[arg(short, long)]
    pub debug: bool,
    /// Say nothing but warnings and errors.
    #[arg(short, long)]
    pub quiet: bool,
    /// How log lines on stderr are written [env: PGSTREAM_LOG sets their levels].
    #[arg(long, value_name = "text|json", default_value = "text", hide_possible_values = true)]
    pub log_format: LogFormatArg,
    /// Name this run in every log line [default: an id of its own].
    #[arg(long, value_name = "ID", value_parser = selection::migration_id)]
    pub migration_id: Option<String>,
}

/// The values of `--auto-ddl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AutoDdlArg {
    /// Everything waits for the operator.
    Off,
    /// What only adds is done.
    Additive,
}

/// The values of `--quarantine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuarantineArg {
    /// What comes is parked.
    Park,
    /// What is parked is applied first, and what comes is parked.
    Replay,
    /// What is parked is given up.
    Discard,
}

/// The values of `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// Lines for people.
    Text,
    /// One object a line.
    Json,
}

/// `pgstream check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// The two ends.
    #[command(flatten)]
    pub servers: Servers,
    /// Which databases.
    #[command(flatten)]
    pub databases: Databases,
    /// How the rows are to travel: auto takes replication where it can.
    #[arg(
        long,
        alias = "force-method",
        value_name = "auto|replication|dump",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub method: MethodArg,
    /// Tables without a key.
    #[command(flatten)]
    pub identity: Identity,
    /// What is moved.
    #[command(flatten)]
    pub filters: Filters,
    /// The checks themselves.
    #[command(flatten)]
    pub checks: Checks,
    /// Where files go.
    #[command(flatten)]
    pub files: Files,
    /// What is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// `pgstream migrate`.
#[derive(Debug, Clone, clap::Args)]
pub struct MigrateArgs {
    /// The two ends.
    #[command(flatten)]
    pub servers: Servers,
    /// Which databases.
    #[command(flatten)]
    pub databases: Databases,
    /// Which roles.
    #[command(flatten)]
    pub roles: RoleArgs,
    /// How the rows travel: replication copies and then carries every change; dump copies what one moment shows,
    /// and ends; auto takes replication where its checks pass, else the dump, and says why.
    #[arg(
        long,
        alias = "force-method",
        value_name = "auto|replication|dump",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub method: MethodArg,
    /// Tables without a key.
    #[command(flatten)]
    pub identity: Identity,
    /// What is moved.
    #[command(flatten)]
    pub filters: Filters,
    /// The checks themselves.
    #[command(flatten)]
    pub checks: Checks,
    /// When to end.
    #[command(flatten)]
    pub ending: EndingArgs,
    /// When a table changes on the source, make on the target what only adds: columns, wider types, enum values,
    /// partitions. Whatever else changed, and with off everything, is printed, and changes wait until it is done.
    #[arg(
        long,
        value_name = "off|additive",
        default_value = "off",
        hide_possible_values = true,
        help_heading = "Tables"
    )]
    pub auto_ddl: AutoDdlArg,
    /// Park a row that the target refuses, with its later changes, in pgstream.quarantine there, and go on with all
    /// others; replay first applies what is parked, discard gives it up. Nothing is cut over while rows are parked.
    #[arg(long, value_name = "park|replay|discard", hide_possible_values = true, help_heading = "Tables")]
    pub quarantine: Option<QuarantineArg>,
    /// How hard to work.
    #[command(flatten)]
    pub pace: Pace,
    /// Where files go.
    #[command(flatten)]
    pub files: Files,
    /// Where changes wait.
    #[command(flatten)]
    pub spool: SpoolArgs,
    /// Serve Prometheus metrics, /healthz and /readyz here, such as 127.0.0.1:9187.
    #[arg(long, value_name = "ADDRESS", help_heading = "Output", value_parser = address)]
    pub metrics_addr: Option<SocketAddr>,
    /// Write what became of everything to this file, as JSON, also when the run fails.
    #[arg(long, visible_alias = "report-file", value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// What is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// `pgstream status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// The two ends; the source is needed for lag and WAL only.
    #[command(flatten)]
    pub servers: Servers,
    /// Look again this often, until interrupted.
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = quantity::duration)]
    pub watch: Option<Duration>,
    /// What is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// `pgstream cleanup`.
#[derive(Debug, Clone, clap::Args)]
pub struct CleanupArgs {
    /// The two ends, or the one that is left. Without a database name, every database of the server.
    #[command(flatten)]
    pub servers: Servers,
    /// Only list what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// End engines that are still at work on it, too, and give up changes that `--quarantine` has parked.
    #[arg(long)]
    pub force: bool,
    /// What is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// `pgstream demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How much data to begin with: 1 is a few seconds' worth.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub size: u32,
    /// How long clients go on writing while the database moves.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = quantity::duration)]
    pub seconds: Duration,
    /// What is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// What a command line comes to.
#[derive(Debug)]
pub enum Parsed {
    /// A command to run.
    Run(Args),
    /// Help or the version: print it on stdout and leave.
    Show(String),
}

impl Args {
    /// Reads a command line, the program's name first, and checks it for contradictions.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`], with a [`Misuse`] as its cause.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, Error> {
        let args = match Args::try_parse_from(pg_migrate::two_letter_flags(words)) {
            Ok(args) => args,
            Err(error) if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) => {
                return Ok(Parsed::Show(error.render().to_string()));
            }
            Err(error) => return Err(Misuse::from_clap(&error).into()),
        };
        args.command.contradiction().map_or(Ok(Parsed::Run(args)), |misuse| Err(misuse.into()))
    }
}

#[allow(clippy::unnecessary_wraps)] // clap asks for a Result
pub(super) fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

pub(super) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:9187 or [::1]:9187")
}

mod files;
#[cfg(test)]
mod tests;
