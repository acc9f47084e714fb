//! Where a table of the source and its twin on the target no longer have the same shape.
//!
//! Hazard: rows that fit no column are rows lost. Drift stops the engine before the first change of the
//! table is applied, and says what to run on the target.

use crate::catalog::Column;
use crate::error::{Error, ErrorKind};
use crate::pg::{Identifier, QualifiedName};
use crate::pgoutput::RelationColumn;

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
}

impl Drift {
    /// The error that stops the engine.
    pub(super) fn into_error(self) -> Error {
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
        };
        Error::new(ErrorKind::Drift, "match the shape of the source's tables on the target")
            .hint(hint)
            .because(self)
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

/// Whether the target's column has the type that the source announced; `base` is what its domain rests on.
///
/// Types below this OID are numbered alike on every server; of the others the source sends the name first,
/// for a domain that of the type at its bottom (server side: logicalrep_write_typ).
pub(super) fn same_type(
    column: &RelationColumn,
    announced: Option<&QualifiedName>,
    target: &Column,
    base: &QualifiedName,
) -> bool {
    const FIRST_GENBKI: u32 = 10_000;
    if column.type_oid.get() < FIRST_GENBKI {
        return column.type_oid == target.type_oid;
    }
    announced.is_none_or(|name| *name == target.type_name || name == base)
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
        let error = drift.into_error();
        assert_eq!(error.kind(), ErrorKind::Drift);
        assert!(error.advice().unwrap().contains(r#"ALTER TABLE "public"."t" ADD COLUMN "b" int8;"#));
    }
}
