//! What an archive says of one object.
//!
//! Hazard: the bytes are in the encoding of the archive, which for a SQL_ASCII database is none (P63). A definition
//! that is not UTF-8 is never turned into a string, for it could not be turned back.

use std::fmt;
use std::sync::Arc;

use crate::pg::Oid;

/// What an archive calls an entry: a number that means nothing outside that archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DumpId(u32);

impl DumpId {
    /// Wraps the number.
    #[must_use]
    pub const fn new(number: u32) -> DumpId {
        DumpId(number)
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for DumpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The part of a restore that an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Comments, privileges, labels: goes with the entry it depends on.
    None,
    /// Before the rows.
    PreData,
    /// Rows.
    Data,
    /// After the rows.
    PostData,
}

/// The SQL that makes an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definition {
    /// None.
    Absent,
    /// One or more statements.
    Sql(Arc<str>),
    /// Not UTF-8, as a SQL_ASCII database may have it (P63): for `pg_restore` only, which passes bytes.
    Opaque,
}

impl Definition {
    /// The SQL, if we can read it.
    #[must_use]
    pub fn sql(&self) -> Option<&str> {
        match self {
            Definition::Sql(sql) => Some(sql),
            Definition::Absent | Definition::Opaque => None,
        }
    }
}

/// One object of the archive, as small as may be: there are several for each table. Names are for reading and matching: bytes that are not UTF-8 show as `�`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: DumpId,
    /// Its section as the archive says; see [`Section::None`].
    pub section: Section,
    /// Its kind: `TABLE`, `FK CONSTRAINT`, `ACL`.
    pub desc: Arc<str>,
    /// Its name, in a form that depends on the kind.
    pub tag: String,
    /// Its schema.
    pub namespace: Option<Arc<str>>,
    /// Its owner; empty when it has none of its own.
    pub owner: Arc<str>,
    /// Its tablespace; empty for the database's own, `None` when it has no storage.
    pub tablespace: Option<Arc<str>>,
    /// What makes it.
    pub definition: Definition,
    /// What must be there before it.
    pub dependencies: Box<[DumpId]>,
    /// The catalog that held it, by OID.
    pub table_oid: Oid,
    /// Its OID on the source; zero for what has none.
    pub oid: Oid,
}

impl Entry {
    /// The entry for people: `INDEX app.orders_at`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.namespace.as_deref() {
            Some(schema) if !schema.is_empty() => format!("{} {schema}.{}", self.desc, self.tag),
            _ => format!("{} {}", self.desc, self.tag),
        }
    }
}
