//! Where each definition of an archive goes.
//!
//! Hazard: a trigger, rule or policy that is there while we write acts on every row we write (P47, P53, P54), and
//! an index that is not there makes every change we apply a scan (P101). So the lists are apart, and each says
//! when its turn is.

use std::sync::Arc;

use crate::catalog::Filters;
use crate::pg::{Identifier, QualifiedName};
use crate::schema::entry::DumpId;

/// What of the target and the operator's wishes the filter must know.
#[derive(Debug, Clone, Copy)]
pub struct FilterSettings {
    /// Whether the target has a schema `public`, as template0 gives it.
    pub public_schema: Schema,
    /// Whether event triggers are wanted: they need a superuser, and often name what only the provider has (P56).
    pub event_triggers: EventTriggers,
}

/// What the operator chose of the database that was dumped.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// The choice.
    pub filters: &'a Filters,
    /// The database, as selectors name it.
    pub database: &'a str,
}

/// Whether a schema exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// It does.
    Exists,
    /// It does not.
    Missing,
}

/// What to do with event triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTriggers {
    /// Create them after everything else.
    Restore,
    /// Leave them out, and say so.
    Skip,
}

/// An index or constraint that we build over a session of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its entry.
    pub id: DumpId,
    /// What it enforces; decides who goes first.
    pub kind: BuildKind,
    /// What kind of object it is.
    pub form: BuildForm,
    /// The table (or materialized view) it stands on.
    pub table: QualifiedName,
    /// Its name; an index lies in its table's schema.
    pub name: Identifier,
    /// Its statements, to run as one.
    pub sql: Arc<str>,
    /// The tablespace it had on the source, if not the default.
    pub tablespace: Option<Arc<str>>,
    /// The builds that come before it.
    pub depends_on: Box<[DumpId]>,
}

/// What a [`Build`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuildKind {
    /// Chosen by `REPLICA IDENTITY USING INDEX`: changes cannot be applied well before it is there (P101).
    ReplicaIdentity,
    /// A primary key: the replica identity of most tables.
    PrimaryKey,
    /// A unique constraint or index.
    Unique,
    /// An exclusion constraint.
    Exclusion,
    /// An index that enforces nothing.
    Index,
    /// Joins a partition's index to its parent's; takes no time.
    Attach,
    /// A foreign key.
    ForeignKey,
}

/// What kind of object a [`Build`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuildForm {
    /// A constraint, with its index if it has one.
    Constraint,
    /// A bare index.
    Index,
    /// A link between two indexes.
    Attachment,
}

/// An entry that is not restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The entry: `PUBLICATION pub`.
    pub entry: String,
    /// Why.
    pub why: &'static str,
}

/// Where each entry of an archive goes. To be restored in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Before the rows.
    pub pre_data: Vec<DumpId>,
    /// Indexes and key constraints, each once its table's rows are there.
    pub builds: Vec<Build>,
    /// After the builds, and harmless while we write: comments, statistics objects, CHECK … NOT VALID, privileges.
    pub last: Vec<DumpId>,
    /// After every build; held back to the cutover where `session_replication_role` is not permitted (P48).
    pub foreign_keys: Vec<Build>,
    /// What acts when a row is written: triggers, rules, policies, event triggers. After everything else, or
    /// held back to the cutover (P47, P53, P54).
    pub armed: Vec<DumpId>,
    /// What is left out.
    pub skipped: Vec<Skipped>,
}
