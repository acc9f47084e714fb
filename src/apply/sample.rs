//! Small tables for tests.

use std::collections::HashMap;
use std::sync::Arc;

use super::drift::Drift;
use super::operator::TargetFacts;
use super::table::{Binder, BoundTable};
use crate::catalog::{
    BinaryForm, Column, Generated, IdentityColumn, Index, IndexKind, Persistence, RelReplIdent, Table,
    TableKind, TransferType, TypeKind,
};
use crate::pg::{Identifier, Lsn, Oid, QualifiedName, RelationId};
use crate::pgoutput::{Relation, RelationColumn, ReplicaIdentity, Tuple, Value};

/// A column of a built-in type; its number is set by [`table`].
pub(super) fn column(name: &str, type_name: &str) -> Column {
    let oid = |name: &str| match name {
        "int4" => 23,
        "int8" => 20,
        "text" => 25,
        "numeric" => 1700,
        "_int4" => 1007,
        other => panic!("no sample of type {other}"),
    };
    let kind = if type_name.starts_with('_') { TypeKind::Array } else { TypeKind::Base };
    Column {
        number: 0,
        name: Identifier::new(name),
        type_oid: Oid::new(oid(type_name)),
        type_name: QualifiedName::new("pg_catalog", type_name).into(),
        type_text: type_name.into(),
        type_modifier: -1,
        type_kind: kind,
        base_kind: kind,
        array_oid: (kind == TypeKind::Base).then_some(Oid::new(1)),
        transfer: TransferType::BinarySafe,
        binary: BinaryForm::Reads { extensions: vec![] },
        not_null: false,
        generated: Generated::No,
        identity: IdentityColumn::No,
        has_equality: true,
    }
}

/// An index on columns by their number, which begins at 1.
pub(super) fn index(kind: IndexKind, key: &[i16]) -> Index {
    Index {
        oid: Oid::new(1),
        name: Identifier::new("i"),
        kind,
        key: key.to_vec(),
        is_partial: false,
        is_immediate: true,
        is_valid: true,
        is_replica_identity: false,
        is_identity_eligible: true,
    }
}

/// The table `s.t`.
pub(super) fn table(mut columns: Vec<Column>, indexes: Vec<Index>) -> Table {
    for (number, column) in (1..).zip(&mut columns) {
        column.number = number;
    }
    Table {
        oid: RelationId::new(9),
        name: QualifiedName::new("s", "t"),
        kind: TableKind::Ordinary,
        persistence: Persistence::Permanent,
        owner: "o".into(),
        is_partition: false,
        parents: vec![],
        extension: None,
        replica_identity: RelReplIdent::Default,
        row_security: false,
        replica_triggers: vec![],
        has_rules: false,
        blocks: 0,
        bytes: 0,
        rows_estimate: 0.0,
        columns,
        indexes,
    }
}

/// `s.t` as the source announces it: name, type OID, part of the identity.
pub(super) fn relation(replica_identity: ReplicaIdentity, columns: &[(&str, u32, bool)]) -> Relation {
    let columns = columns
        .iter()
        .map(|(name, oid, is_key)| RelationColumn {
            is_key: *is_key,
            name: (*name).to_owned(),
            type_oid: Oid::new(*oid),
            type_modifier: -1,
        })
        .collect();
    let (namespace, name) = ("s".to_owned(), "t".to_owned());
    Relation { xid: None, id: RelationId::new(7), namespace, name, replica_identity, columns }
}

/// Binds without facts from a server.
pub(super) fn bind(relation: &Relation, table: &Table) -> Result<Arc<BoundTable>, Drift> {
    let facts = TargetFacts::default();
    Binder { facts: &facts, types: &HashMap::new(), since: None }.bind(relation, table, Lsn::ZERO)
}

/// Binds a shape that the source is known to have had before it had that of `since`.
pub(super) fn bind_since(
    relation: &Relation,
    table: &Table,
    since: &Table,
) -> Result<Arc<BoundTable>, Drift> {
    let facts = TargetFacts::default();
    Binder { facts: &facts, types: &HashMap::new(), since: Some(since) }.bind(relation, table, Lsn::ZERO)
}

/// A table (id int4 primary key, a text, b text).
pub(super) fn keyed() -> Arc<BoundTable> {
    let columns = vec![column("id", "int4"), column("a", "text"), column("b", "text")];
    let table = table(columns, vec![index(IndexKind::Primary, &[1])]);
    let columns = [("id", 23, true), ("a", 25, false), ("b", 25, false)];
    bind(&relation(ReplicaIdentity::Default, &columns), &table).unwrap()
}

/// The same columns without a key, identity FULL.
pub(super) fn keyless() -> Arc<BoundTable> {
    let columns = vec![column("id", "int4"), column("a", "text"), column("b", "text")];
    let source = [("id", 23, true), ("a", 25, true), ("b", 25, true)];
    bind(&relation(ReplicaIdentity::Full, &source), &table(columns, vec![])).unwrap()
}

/// A tuple of texts; `None` is unchanged, "∅" is NULL.
pub(super) fn texts(values: &[Option<&'static str>]) -> Tuple {
    let value = |text: &Option<&'static str>| match text {
        None => Value::Unchanged,
        Some("∅") => Value::Null,
        Some(text) => Value::Text(text.as_bytes()),
    };
    values.iter().map(value).collect()
}

impl<'a> FromIterator<Value<'a>> for Tuple {
    fn from_iter<I: IntoIterator<Item = Value<'a>>>(values: I) -> Tuple {
        Tuple::of(values).unwrap()
    }
}
