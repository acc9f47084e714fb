//! What a database contains beside tables.

use std::collections::HashMap;

use crate::catalog::Table;
use crate::pg::{Oid, QualifiedName, RelationId, ServerVersion};

/// A sequence that no extension owns. Its value is read when writes have stopped (P33).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// OID on this server.
    pub oid: Oid,
    /// Name.
    pub name: QualifiedName,
}

/// A materialized view, in an order in which each comes after those it reads from (P36).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaterializedView {
    /// OID on this server.
    pub oid: Oid,
    /// Name.
    pub name: QualifiedName,
    /// `relispopulated`.
    pub is_populated: bool,
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    /// Constraint name.
    pub name: String,
    /// Referencing table.
    pub table: RelationId,
    /// Referenced table.
    pub references: RelationId,
}

/// An enum type; a label added while we follow makes the target refuse rows (P66).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnumType {
    /// Name.
    pub name: QualifiedName,
    /// Labels, in the type's order.
    pub labels: Vec<String>,
}

/// An extension; `plpgsql`, which every database has, is not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// The schema its objects are in.
    pub schema: String,
    /// The extensions it needs.
    pub requires: Vec<String>,
}

/// One database, as one snapshot shows it. System schemas and temporary objects are left out.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// The server's version.
    pub version: ServerVersion,
    /// The database's name.
    pub database: String,
    /// `pg_encoding_to_char(encoding)` of the database: "UTF8", "SQL_ASCII" (P63).
    pub encoding: String,
    /// Schemas by name.
    pub schemas: Vec<String>,
    /// Extensions by name.
    pub extensions: Vec<Extension>,
    /// Ordinary, partitioned and foreign tables by name, extension members included and marked.
    pub tables: Vec<Table>,
    /// Sequences.
    pub sequences: Vec<Sequence>,
    /// Materialized views in refresh order.
    pub materialized_views: Vec<MaterializedView>,
    /// Foreign keys, those that partitions inherit included.
    pub foreign_keys: Vec<ForeignKey>,
    /// Enum types.
    pub enums: Vec<EnumType>,
    /// Rows of `pg_largeobject_metadata` (P34).
    pub large_objects: u64,
}

impl Catalog {
    /// The table of that OID. Walks the list: inside a loop use [`Catalog::by_oid`].
    #[must_use]
    pub fn table(&self, oid: RelationId) -> Option<&Table> {
        self.tables.iter().find(|table| table.oid == oid)
    }

    /// The table of that name. Walks the list: inside a loop use [`Catalog::by_name`].
    #[must_use]
    pub fn table_named(&self, name: &QualifiedName) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == *name)
    }

    /// Tables by OID.
    #[must_use]
    pub fn by_oid(&self) -> HashMap<RelationId, &Table> {
        self.tables.iter().map(|table| (table.oid, table)).collect()
    }

    /// Tables by name.
    #[must_use]
    pub fn by_name(&self) -> HashMap<&QualifiedName, &Table> {
        self.tables.iter().map(|table| (&table.name, table)).collect()
    }
}
