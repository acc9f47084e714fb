//! Minimal tables for tests of this crate that need a catalog and no server.

use crate::catalog::{
    BinaryForm, Catalog, Column, Generated, IdentityColumn, Index, IndexKind, Persistence, RelReplIdent,
    Table, TableKind, TransferType, TypeKind,
};
use crate::pg::{Identifier, Oid, QualifiedName, RelationId, ServerVersion};

/// An ordinary table `public.<name>` with no columns.
pub(crate) fn table(oid: u32, name: &str) -> Table {
    Table {
        oid: RelationId::new(oid),
        name: QualifiedName::new("public", name),
        kind: TableKind::Ordinary,
        persistence: Persistence::Permanent,
        owner: "app".into(),
        is_partition: false,
        parents: Vec::new(),
        extension: None,
        replica_identity: RelReplIdent::Default,
        row_security: false,
        replica_triggers: Vec::new(),
        has_rules: false,
        blocks: 0,
        bytes: 0,
        rows_estimate: -1.0,
        columns: Vec::new(),
        indexes: Vec::new(),
    }
}

/// An `integer` column, NOT NULL.
pub(crate) fn column(number: i16, name: &str) -> Column {
    Column {
        number,
        name: Identifier::new(name),
        type_oid: Oid::new(23),
        type_name: QualifiedName::new("pg_catalog", "int4").into(),
        type_text: "integer".into(),
        type_modifier: -1,
        type_kind: TypeKind::Base,
        base_kind: TypeKind::Base,
        array_oid: Some(Oid::new(1007)),
        transfer: TransferType::BinarySafe,
        binary: BinaryForm::Reads { extensions: vec![] },
        not_null: true,
        generated: Generated::No,
        identity: IdentityColumn::No,
        has_equality: true,
    }
}

/// A valid, immediate index of that kind on column 1.
pub(crate) fn index(name: &str, kind: IndexKind) -> Index {
    Index {
        oid: Oid::new(900),
        name: Identifier::new(name),
        kind,
        key: vec![1],
        is_partial: false,
        is_immediate: true,
        is_valid: true,
        is_replica_identity: false,
        is_identity_eligible: matches!(kind, IndexKind::Primary | IndexKind::Unique),
    }
}

/// A table with column `id` as its primary key.
pub(crate) fn keyed(oid: u32, name: &str) -> Table {
    Table {
        columns: vec![column(1, "id")],
        indexes: vec![index("pk", IndexKind::Primary)],
        ..table(oid, name)
    }
}

/// A UTF8 database `shop` on 15 with these tables.
pub(crate) fn catalog(tables: impl IntoIterator<Item = Table>) -> Catalog {
    Catalog {
        version: ServerVersion::new(150_018),
        database: "shop".to_owned(),
        encoding: "UTF8".to_owned(),
        schemas: vec!["public".to_owned()],
        extensions: Vec::new(),
        tables: tables.into_iter().collect(),
        sequences: Vec::new(),
        materialized_views: Vec::new(),
        foreign_keys: Vec::new(),
        enums: Vec::new(),
        large_objects: 0,
    }
}
