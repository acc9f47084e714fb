//! Everything the checks look at, read once; from here on no check touches a server.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::catalog::{
    Capabilities, Catalog, Configuration, Dependent, ExtensionRows, LeftBehind, Persistence, Table, TableKind,
};
use crate::pg::{QualifiedName, RelationId, SystemIdentifier};
use crate::precheck::options::{FullIdentity, Method, Resuming};
use crate::precheck::provider::Provider;

/// Both ends of one database's migration, and what was chosen for it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Where the rows are.
    pub source: SourceFacts,
    /// Where they go.
    pub target: TargetFacts,
    /// The operator's choices, resolved to tables.
    pub choices: Choices,
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
    /// Roles that own objects here or hold grants on them.
    pub roles_in_use: Vec<String>,
}

/// The target.
#[derive(Debug, Clone)]
pub struct TargetFacts {
    /// The server.
    pub server: ServerFacts,
    /// Extensions that can be created, by name.
    pub extensions: HashMap<String, AvailableExtension>,
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

    /// Tables whose changes are streamed: moved, and in the WAL.
    pub(super) fn streamed_tables(&self) -> impl Iterator<Item = &Table> {
        self.moved_tables().filter(|table| table.persistence == Persistence::Permanent)
    }
}
