//! Where a table of the source and its twin on the target no longer have the same shape.
//!
//! Hazard: rows that fit no column are rows lost, and a value that the target rounds is lost as well. Drift
//! stops the engine before the first change of the table is applied, and says what to run on the target.
//!
//! Hazard: the stream is older than the catalogs. A shape from before the last ALTER fits a target that has
//! been altered already, and only what both ends agreed on *after* that shape was sent proves it ([`SourceNow`]).

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::{Column, Table, TypeUse};
use crate::error::{Error, ErrorKind};
use crate::pg::{Identifier, Lsn, QualifiedName};
use crate::pgoutput::{Relation, RelationColumn};

/// The source's tables as they were at some position, to tell a shape of before from one of after.
#[derive(Debug, Clone, Default)]
pub struct SourceNow {
    tables: HashMap<QualifiedName, Table>,
    /// Every definition that was in force before this was read.
    as_of: Lsn,
}

impl SourceNow {
    /// `tables` were read after the source had written its WAL up to `as_of`.
    #[must_use]
    pub fn new(tables: Vec<Table>, as_of: Lsn) -> SourceNow {
        let tables = tables.into_iter().map(|table| (table.name.clone(), table)).collect();
        SourceNow { tables, as_of }
    }

    /// Every table that was read.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// The table as it has become since a transaction whose commit record starts at `final_lsn`; none if that
    /// transaction may have seen a later shape still.
    pub(super) fn since(&self, name: &QualifiedName, final_lsn: Lsn) -> Option<&Table> {
        self.tables.get(name).filter(|_| final_lsn < self.as_of)
    }
}

/// A shape that the stream announced and the target does not have: the cause of an error of kind `Drift`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct Drifted {
    what: Drift,
    /// The table as the source announced it.
    pub relation: Arc<Relation>,
}

impl Drifted {
    /// The table's name on the source when it was changed.
    #[must_use]
    pub fn table(&self) -> QualifiedName {
        QualifiedName::new(self.relation.namespace.as_str(), self.relation.name.as_str())
    }
}

/// One difference that changes cannot be applied across.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Drift {
    #[error("the source changes table {}, which is not among the tables that are migrated", .table.plain())]
    UnknownTable { table: QualifiedName },
    #[error("the target has no table {}", .table.plain())]
    MissingTable { table: QualifiedName },
    #[error("table {} has no column {column} on the target", .table.plain())]
    MissingColumn { table: QualifiedName, column: Identifier, source_type: Option<String> },
    #[error("column {column} of table {} has type {target_type} on the target, not that of the source", .table.plain())]
    OtherType { table: QualifiedName, column: Identifier, source_type: Option<String>, target_type: String },
    #[error("table {} has column {column} on the target only", .table.plain())]
    ExtraColumn { table: QualifiedName, column: Identifier },
    #[error("table {} is identified by other columns on the source than by its primary key on the target", .table.plain())]
    OtherKey { table: QualifiedName, key: Vec<Identifier> },
}

impl Drift {
    /// The error that stops the engine.
    pub(super) fn into_error(self, relation: &Arc<Relation>) -> Error {
        let hint = match &self {
            Drift::UnknownTable { table } => format!(
                "If it is a new partition, create {table} on the target as it is on the source and run the same \
                 command again; its rows are all in the stream."
            ),
            Drift::MissingTable { table } => format!("Create {table} on the target as it is on the source."),
            Drift::MissingColumn { table, column, source_type } => format!(
                "Run on the target: ALTER TABLE {table} ADD COLUMN {column} {};",
                source_type.as_deref().unwrap_or("<the source's type>")
            ),
            Drift::OtherType { table, column, source_type, .. } => format!(
                "Run on the target: ALTER TABLE {table} ALTER COLUMN {column} TYPE {};",
                source_type.as_deref().unwrap_or("<the source's type>")
            ),
            Drift::ExtraColumn { table, column } => {
                format!("Run on the target: ALTER TABLE {table} DROP COLUMN {column};")
            }
            Drift::OtherKey { table, key } => {
                let key: Vec<String> = key.iter().map(ToString::to_string).collect();
                format!(
                    "Drop the target's primary key and run there: ALTER TABLE {table} ADD PRIMARY KEY ({});",
                    key.join(", ")
                )
            }
        };
        Error::new(ErrorKind::Drift, "match the shape of the source's tables on the target")
            .hint(hint)
            .because(Drifted { what: self, relation: Arc::clone(relation) })
    }
}

/// Length of the header that type modifiers of varlena types count in.
const VARHDRSZ: i32 = 4;

/// The type of a source's column as `ALTER TABLE` takes it; `name` is the type's, when it is not built in.
pub(super) fn type_text(column: &RelationColumn, name: Option<&QualifiedName>) -> Option<String> {
    if let Some(name) = name {
        return Some(name.to_string());
    }
    let builtin = tokio_postgres::types::Type::from_oid(column.type_oid.get())?;
    let modifier = column.type_modifier - VARHDRSZ;
    Some(match builtin.name() {
        name @ ("varchar" | "bpchar") if modifier > 0 => format!("{name}({modifier})"),
        "numeric" if modifier >= 0 => format!("numeric({},{})", modifier >> 16, modifier & 0x7ff),
        name @ ("timestamp" | "timestamptz" | "time" | "timetz") if column.type_modifier >= 0 => {
            format!("{name}({})", column.type_modifier)
        }
        name @ ("bit" | "varbit") if column.type_modifier > 0 => format!("{name}({})", column.type_modifier),
        "char" => "\"char\"".to_owned(),
        array if array.starts_with('_') => format!("{}[]", array.trim_start_matches('_')),
        name => name.to_owned(),
    })
}

/// How a type of the target's relates to the one that the source announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Same,
    /// Every announced value is one of it, and its text is read as the same.
    Wider,
    Other,
}

/// Compares the target's type with the announced one; `base` is what the target's domain rests on.
///
/// Types below this OID are numbered alike on every server; of the others the source sends the name first,
/// for a domain that of the type at its bottom (server side: logicalrep_write_typ).
pub(super) fn fit(
    column: &RelationColumn,
    announced: Option<&QualifiedName>,
    target: &Column,
    base: &QualifiedName,
) -> Fit {
    const FIRST_GENBKI: u32 = 10_000;
    if column.type_oid.get() < FIRST_GENBKI {
        if column.type_oid == target.type_oid && column.type_modifier == target.type_modifier {
            return Fit::Same;
        }
        return match tokio_postgres::types::Type::from_oid(column.type_oid.get()) {
            Some(source) if target.type_name.schema.raw() == "pg_catalog" => {
                let narrow = TypeUse { name: source.name(), modifier: column.type_modifier };
                let wide = TypeUse { name: target.type_name.name.raw(), modifier: target.type_modifier };
                if wide.holds(&narrow) { Fit::Wider } else { Fit::Other }
            }
            Some(_) | None => Fit::Other,
        };
    }
    let is_same = announced.is_none_or(|name| *name == *target.type_name || name == base);
    if is_same && column.type_modifier == target.type_modifier { Fit::Same } else { Fit::Other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Oid;

    fn column(oid: u32, type_modifier: i32) -> RelationColumn {
        RelationColumn { is_key: false, name: "c".into(), type_oid: Oid::new(oid), type_modifier }
    }

    #[test]
    fn types_read_as_alter_table_takes_them() {
        let text = |oid, modifier| type_text(&column(oid, modifier), None).unwrap();
        assert_eq!(text(1043, 24), "varchar(20)");
        assert_eq!(text(1700, (10 << 16 | 2) + 4), "numeric(10,2)");
        assert_eq!(text(1700, -1), "numeric");
        assert_eq!(text(23, -1), "int4");
        assert_eq!(text(1007, -1), "int4[]");
        assert_eq!(text(18, -1), "\"char\"");
        assert_eq!(
            type_text(&column(16_400, -1), Some(&QualifiedName::new("s", "M"))).unwrap(),
            "\"s\".\"M\""
        );
    }

    #[test]
    fn drift_names_the_command() {
        let drift = Drift::MissingColumn {
            table: QualifiedName::new("public", "t"),
            column: Identifier::new("b"),
            source_type: Some("int8".into()),
        };
        let relation = Relation {
            xid: None,
            id: crate::pg::RelationId::new(7),
            namespace: "public".into(),
            name: "t".into(),
            replica_identity: crate::pgoutput::ReplicaIdentity::Default,
            columns: vec![],
        };
        let error = drift.into_error(&Arc::new(relation));
        assert_eq!(error.kind(), ErrorKind::Drift);
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<Drifted>());
        assert_eq!(cause.unwrap().table(), QualifiedName::new("public", "t"));
        assert!(error.advice().unwrap().contains(r#"ALTER TABLE "public"."t" ADD COLUMN "b" int8;"#));
    }
}
