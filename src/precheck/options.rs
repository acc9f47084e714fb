//! What the operator chose, as far as the checks depend on it.

use crate::catalog::{Filters, TableSelector};

/// Whether the target may hold what an earlier run of ours left there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resuming {
    /// A first run: the target must be empty (P81).
    #[default]
    No,
    /// The state on the target is adopted.
    Yes,
}

/// How the rows are to travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Copy, then stream what changes.
    #[default]
    Replication,
    /// Copy only; nothing is asked of the source's WAL.
    Dump,
}

/// What is done with tables that cannot identify their rows (P06).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FullIdentity {
    /// They block the migration.
    #[default]
    Refused,
    /// They get `REPLICA IDENTITY FULL` (P09).
    Accepted,
}

/// The operator's word on tables that cannot identify their rows.
#[derive(Debug, Clone, Default)]
pub struct IdentityChoice {
    /// `--replica-identity full`.
    pub full: FullIdentity,
    /// `--insert-only TABLE`: published without UPDATE and DELETE.
    pub insert_only: Vec<TableSelector>,
}

/// Whether a target older than the source blocks (P79).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VersionRule {
    /// It does.
    #[default]
    Enforced,
    /// `--skip-db-version-check`: it warns.
    Waived,
}

/// Whether the definitions are restored once for trial, into a scratch database on the target (P80).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrialRestore {
    /// No.
    #[default]
    No,
    /// `--trial-restore`.
    Yes,
}

/// The operator's word on the checks themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckChoice {
    /// Versions.
    pub version: VersionRule,
    /// `--target-free-bytes`: what no SQL tells.
    pub target_free_bytes: Option<u64>,
    /// `--dbs-max-total-size`: all databases of the run together may not be larger.
    pub total_bytes_max: Option<u64>,
    /// Whether to try the definitions.
    pub trial_restore: TrialRestore,
}

/// Who sees to the source's roles, and to what is set for its databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Globals {
    /// The operator: what the target lacks is missed.
    #[default]
    Left,
    /// The same run, before or after the database itself.
    Carried,
}

/// The other databases that the same run moves: they draw on the same slots, connections and disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others {
    /// How many.
    pub databases: u32,
    /// Their size, as [`Facts::bytes`] counts it.
    ///
    /// [`Facts::bytes`]: crate::precheck::facts::Facts::bytes
    pub bytes: u64,
}

/// What the checks are told beside the two connection strings.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// First run or a later one.
    pub resuming: Resuming,
    /// How the rows travel.
    pub method: Method,
    /// Tables without identity.
    pub identity: IdentityChoice,
    /// What is moved at all.
    pub filters: Filters,
    /// The checks themselves.
    pub choice: CheckChoice,
    /// What else the run moves.
    pub others: Others,
    /// Who sees to roles.
    pub roles: Globals,
    /// Who sees to the settings of databases.
    pub database_settings: Globals,
}
