//! What the source's database holds beside its tables, as far as a check asks.

use std::collections::{HashMap, HashSet};

use crate::pg::{QualifiedName, RelationId};

/// What the database holds; each list only what some check may have to name.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// `pg_database_size`.
    pub database_bytes: u64,
    /// Bytes of all large objects.
    pub large_object_bytes: u64,
    /// Bytes of each table's indexes, by the catalog.
    pub index_bytes: HashMap<RelationId, u64>,
    /// Relations that `pg_dump` locks, all in one transaction (P88).
    pub lockable: u64,
    /// Large objects that our role may not read (P34).
    pub unreadable_large_objects: u64,
    /// Languages that the user's functions are written in; SQL, internal and C are left out.
    pub languages: Vec<LanguageUse>,
    /// What only a superuser can create, as "type public.odd" (P65).
    pub for_superusers: Vec<String>,
    /// Event triggers by name (P56).
    pub event_triggers: Vec<String>,
    /// Constraints that were never validated: table and name (P50).
    pub not_valid: Vec<(QualifiedName, String)>,
    /// Constraints that make order matter (P51, P52).
    pub ordering: Vec<OrderingConstraint>,
    /// Functions that rows pass through, without a `search_path` of their own (P58).
    pub open_functions: Vec<OpenFunction>,
    /// Names of the user's functions and types.
    pub names: HashSet<String>,
    /// Collations of `pg_catalog` that columns or indexes are made with (P64).
    pub collations: HashSet<String>,
    /// Collations whose version has changed since they were made (P64).
    pub changed_collations: Vec<String>,
    /// Tables partitioned by ranges of text (P64).
    pub text_ranges: Vec<QualifiedName>,
    /// Relations outside the default tablespace, and where they are (P74).
    pub elsewhere: Vec<(QualifiedName, String)>,
    /// Providers of security labels (P74).
    pub label_providers: Vec<String>,
    /// Operators that stand behind their only operand, gone since 14 (P80).
    pub postfix_operators: Vec<String>,
    /// Tables with hidden OIDs, gone since 12 (P65).
    pub with_oids: Vec<QualifiedName>,
    /// Hypertables; `None` where they may not be counted (P45).
    pub hypertables: Option<u64>,
    /// Jobs that an extension runs by itself (P46).
    pub jobs: Vec<Jobs>,
}

/// A language that functions of the user's are written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageUse {
    /// The language.
    pub name: String,
    /// Whether anyone may write functions in it.
    pub is_trusted: bool,
    /// How many do.
    pub functions: u64,
    /// One of them.
    pub example: String,
}

/// A constraint under which rows cannot be written in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderingConstraint {
    /// The table.
    pub table: RelationId,
    /// Its name.
    pub name: QualifiedName,
    /// The constraint.
    pub constraint: String,
    /// An exclusion constraint, else a deferrable one.
    pub is_exclusion: bool,
}

/// A function that an index, a constraint, a generated column or a materialized view calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFunction {
    /// The function, with its arguments.
    pub name: String,
    /// Its text.
    pub body: String,
}

/// What an extension does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// The extension.
    pub extension: String,
    /// What it calls them: "jobs", "partition sets".
    pub what: &'static str,
    /// How many; `None` where they may not be counted.
    pub count: Option<u64>,
    /// Stops them, on either server.
    pub stop: &'static str,
}
