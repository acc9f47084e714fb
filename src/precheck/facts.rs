//! Everything the checks look at, read once; from here on no check touches a server.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::catalog::{
    Capabilities, Catalog, Configuration, Dependent, ExtensionRows, LeftBehind, Persistence, Table, TableKind,
};
use crate::pg::{QualifiedName, RelationId, SystemIdentifier};
use crate::precheck::objects::Objects;
use crate::precheck::options::{CheckChoice, FullIdentity, Globals, Method, Others, Resuming};
use crate::precheck::provider::Provider;
use crate::precheck::surroundings::Surroundings;

/// Both ends of one database's migration, and what was chosen for it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Where the rows are.
    pub source: SourceFacts,
    /// Where they go.
    pub target: TargetFacts,
    /// The operator's choices, resolved to tables.
    pub choices: Choices,
    /// A program found on this machine to carry definitions with, of a fitting version; tried by the conductor (P79).
    pub tools: Trial,
    /// The definitions restored into a scratch database; tried by the conductor, on request (P80).
    pub trial_restore: TrialRestored,
}

/// The operator's choices, with selectors resolved to the tables of this database.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// First run or a later one.
    pub resuming: Resuming,
    /// How the rows travel.
    pub method: Method,
    /// What tables without identity get.
    pub full: FullIdentity,
    /// Tables published without UPDATE and DELETE.
    pub insert_only: HashSet<RelationId>,
    /// Tables of which no row is moved.
    pub skip: HashSet<RelationId>,
    /// All that is left behind; the tables of `skip` among it.
    pub left: LeftBehind,
    /// Whether rows in extensions' configuration tables are carried (P44).
    pub extension_rows: ExtensionRows,
    /// The checks themselves.
    pub checks: CheckChoice,
    /// What else the run moves.
    pub others: Others,
    /// Who sees to roles.
    pub roles: Globals,
    /// Who sees to the settings of databases.
    pub database_settings: Globals,
}

/// What is asked of either server.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// The database.
    pub database: String,
    /// Its encoding, by PostgreSQL's name.
    pub encoding: String,
    /// What our role may do there.
    pub may: Capabilities,
    /// The cluster; `None` where the service does not tell.
    pub system_identifier: Option<SystemIdentifier>,
    /// Whose service it is.
    pub provider: Provider,
    /// Settings, locale, and the way there.
    pub surroundings: Surroundings,
}

/// The source.
#[derive(Debug, Clone)]
pub struct SourceFacts {
    /// The server.
    pub server: ServerFacts,
    /// What the database contains.
    pub catalog: Catalog,
    /// `effective_wal_level` where the server has it (19+), else `wal_level` (P01).
    pub wal_level: String,
    /// Whether the server raises its WAL level by itself when a logical slot is made (19+).
    pub raises_wal_level: bool,
    /// Replication slots and walsenders.
    pub slots: SlotFacts,
    /// A replication connection, tried (P04).
    pub replication: Trial,
    /// CREATE PUBLICATION, tried and rolled back (P05).
    pub publication: Trial,
    /// Relations whose rights are not what we need.
    pub rights: Vec<RelationRights>,
    /// Prepared transactions, of any database (P22).
    pub prepared: Vec<PreparedTransaction>,
    /// Transactions that have written and are still open, of any database (P12).
    pub writers: Vec<Writer>,
    /// Extensions installed: name and version.
    pub extensions: Vec<(String, String)>,
    /// What needs something that is left behind.
    pub dependents: Vec<Dependent>,
    /// What extensions keep of the user's (P44).
    pub configuration: Vec<Configuration>,
    /// The schema of each extension.
    pub extension_schemas: HashMap<String, String>,
    /// Whether our role, which may not publish by itself, can install `aiven_extras` (P05).
    pub aiven_extras: Installable,
    /// Roles that own objects here or hold grants on them.
    pub roles_in_use: Vec<String>,
    /// Those of them with attributes that only a superuser gives: name and attributes (P69).
    pub exalted_roles: Vec<(String, Vec<String>)>,
    /// Whether the verifiers of passwords may be read (P68).
    pub reads_passwords: bool,
    /// How many of the roles in use may log in.
    pub login_roles: u64,
    /// The oldest transaction and multixact ids of the cluster's databases, as ages (P28).
    pub age: Age,
    /// What the database holds beside its tables.
    pub objects: Objects,
}

/// How near the cluster is to the end of its transaction ids (P28).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Age {
    /// The database with the oldest of them.
    pub database: String,
    /// `age(datfrozenxid)`.
    pub xids: u64,
    /// The greatest `mxid_age(datminmxid)`.
    pub multixacts: u64,
}

/// Whether an extension that is not there can be had: tried, and rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Installable {
    /// It is there already, or cannot.
    #[default]
    No,
    /// It can.
    Yes,
}

/// The target.
#[derive(Debug, Clone)]
pub struct TargetFacts {
    /// The server.
    pub server: ServerFacts,
    /// Extensions that can be created, by name.
    pub extensions: HashMap<String, AvailableExtension>,
    /// Extensions that are there already, by name.
    pub installed: HashMap<String, InstalledExtension>,
    /// CREATE EXTENSION for those of the source, tried and rolled back where it was not plain that it works.
    pub extension_trials: HashMap<String, Trial>,
    /// Procedural languages.
    pub languages: HashSet<String>,
    /// Names of collations in `pg_catalog`.
    pub collations: HashSet<String>,
    /// Names of settings, in lower case.
    pub parameters: HashSet<String>,
    /// Every role.
    pub roles: HashSet<String>,
    /// How many relations of the user's are there already (P81).
    pub relations: u64,
    /// The names of some of them.
    pub relation_examples: Vec<QualifiedName>,
}

/// The outcome of trying something that leaves no trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// Not tried, or not to be tried here.
    NotTried,
    /// It worked.
    Allowed,
    /// It was refused.
    Refused {
        /// What was tried, and what the server said.
        message: String,
        /// What mends it, where the refusal itself tells.
        advice: Option<String>,
    },
}

/// What came of restoring the definitions for trial (P80).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TrialRestored {
    /// Nobody asked.
    #[default]
    NotAsked,
    /// They are all there, but for what only costs a warning.
    Restored,
    /// Some did not arrive.
    Failed {
        /// Which, and what the target said.
        message: String,
        /// What mends it, where that shows.
        advice: Option<String>,
    },
    /// There was no scratch database to try it in.
    Impossible {
        /// Why.
        message: String,
    },
}

/// Slots and walsenders of the source's cluster (P02).
#[derive(Debug, Clone, Default)]
pub struct SlotFacts {
    /// `max_replication_slots`.
    pub slots_max: u32,
    /// Slots that exist.
    pub slots_used: u32,
    /// `max_wal_senders`.
    pub senders_max: u32,
    /// Walsenders running.
    pub senders_used: u32,
    /// Slots nobody reads, with the bytes of WAL each keeps.
    pub inactive: Vec<(String, u64)>,
}

/// A relation that we may not read whole, or do not own.
#[derive(Debug, Clone)]
pub struct RelationRights {
    /// Its OID, which for a table is its [`RelationId`].
    pub oid: RelationId,
    /// Its name.
    pub name: QualifiedName,
    /// Whether it is a sequence, not a table.
    pub is_sequence: bool,
    /// Its owner.
    pub owner: String,
    /// Whether the owner is a superuser.
    pub owner_is_superuser: bool,
    /// May be read: SELECT on it, USAGE on its schema (P82).
    pub is_readable: bool,
    /// We have its owner's rights (P05).
    pub is_owned: bool,
    /// Row security hides rows of it from us (P53).
    pub hides_rows: bool,
}

/// A prepared transaction.
#[derive(Debug, Clone)]
pub struct PreparedTransaction {
    /// Its global identifier.
    pub gid: String,
    /// The database.
    pub database: String,
}

/// A session whose transaction has an xid.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Process id.
    pub pid: i32,
    /// The database.
    pub database: String,
    /// The role.
    pub role: String,
    /// How long the transaction is open; `None` if we may not see it.
    pub age: Option<Duration>,
}

/// An extension that the target can create.
#[derive(Debug, Clone, Default)]
pub struct AvailableExtension {
    /// What CREATE EXTENSION installs.
    pub default_version: String,
    /// What can be asked for by name.
    pub versions: Vec<String>,
    /// A role with CREATE on the database may create it (13+).
    pub is_trusted: bool,
}

/// An extension that the target has.
#[derive(Debug, Clone, Default)]
pub struct InstalledExtension {
    /// Its version.
    pub version: String,
    /// Its schema.
    pub schema: String,
}

impl Facts {
    /// Tables whose rows are moved: neither left behind, nor an extension's, nor without rows of their own.
    pub(super) fn moved_tables(&self) -> impl Iterator<Item = &Table> {
        self.source.catalog.tables.iter().filter(|table| {
            table.kind == TableKind::Ordinary
                && table.extension.is_none()
                && !self.choices.skip.contains(&table.oid)
        })
    }

    /// Whether anything of the user's is left behind.
    fn is_partial(&self) -> bool {
        !self.choices.skip.is_empty()
    }

    /// How much is moved: the database, or, where tables are left behind, the others with their indexes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let objects = &self.source.objects;
        if !self.is_partial() {
            return objects.database_bytes;
        }
        let indexes = |table: &Table| objects.index_bytes.get(&table.oid).copied().unwrap_or(0);
        let tables: u64 = self.moved_tables().map(|table| table.bytes + indexes(table)).sum();
        tables + objects.large_object_bytes
    }

    /// Tables whose changes are streamed: moved, and in the WAL.
    pub(super) fn streamed_tables(&self) -> impl Iterator<Item = &Table> {
        self.moved_tables().filter(|table| table.persistence == Persistence::Permanent)
    }
}
