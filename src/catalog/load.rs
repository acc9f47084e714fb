//! Loads a [`Catalog`]: twelve queries and three round trips, whatever the number of tables, and their rows joined here.
//!
//! Hazard: outside a transaction each query sees its own moment. Callers who act on what they read run
//! this inside a REPEATABLE READ transaction, the snapshot's keeper with the exported snapshot imported;
//! rows about an object that an earlier query did not see are left out.

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::order::refresh_order;
use crate::catalog::query::{self, field, letter};
use crate::catalog::typing::{TypeMap, TypeRow};
use crate::catalog::{
    Catalog, Column, EnumType, Extension, ForeignKey, Generated, IdentityColumn, Index, IndexKind,
    MaterializedView, Persistence, RelReplIdent, Sequence, Table, TableKind, TypeKind,
};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Identifier, Oid, QualifiedName, RelationId, TextPool};
use crate::wire::Session;
use tokio_postgres::Row;

/// Reads what the session's database contains, as the session's snapshot shows it.
///
/// Works inside a transaction with an imported snapshot and outside any. It does not wait for a table that
/// somebody alters, but measures it by `relpages`; one whose lock is taken in the same instant costs at
/// most the session's `lock_timeout`.
///
/// # Errors
/// `Sql` or `Connect` from the server; `Protocol` if a catalog holds what no known version writes.
pub async fn load(session: &Session) -> Result<Catalog> {
    let version = session.version();
    let (tables, types, views) = (query::tables(), query::types(version), query::materialized_views());
    let (sequences, foreign_keys, enums) = (query::sequences(), query::foreign_keys(), query::enums());
    // Columns and tables are many; what they are called and made of repeats.
    let mut texts = TextPool::default();
    // Sent one behind the other, and answered in this order. Columns and indexes are most of a catalog, and wait until
    // the one before them is put in its place.
    let (database, schemas, extensions, tables, types, views, reads, sequences, foreign_keys, enums) = tokio::try_join!(
        query::row(session, "read the database's properties", query::DATABASE),
        read_schemas(session),
        query::read(session, "list extensions", query::EXTENSIONS, extension),
        query::read(session, "list tables", &tables, |row| table(row, &mut texts)),
        query::read(session, "list types", &types, type_row),
        query::read(session, "list materialized views", &views, materialized_view),
        query::read(session, "read how views depend on each other", query::VIEW_READS, view_read),
        query::read(session, "list sequences", &sequences, sequence),
        query::read(session, "list foreign keys", &foreign_keys, foreign_key),
        query::read(session, "list enum types", &enums, enum_type),
    )?;
    let (mut tables, types) = (tables, TypeMap::new(types));
    let by_oid: HashMap<RelationId, usize> =
        tables.iter().enumerate().map(|(position, table)| (table.oid, position)).collect();

    query::each(session, "list columns", &query::columns(version), |row| {
        if let Some(table) = owner(&mut tables, &by_oid, row, "attrelid")? {
            table.columns.push(column(row, &types, &mut texts)?);
        }
        Ok(())
    })
    .await?;
    query::each(session, "list indexes", &query::indexes(version), |row| {
        if let Some(table) = owner(&mut tables, &by_oid, row, "indrelid")? {
            let index = index(row, table)?;
            table.indexes.push(index);
        }
        Ok(())
    })
    .await?;
    // Thousands of tables are kept as long as we run: no more than they need.
    for table in &mut tables {
        table.columns.shrink_to_fit();
        table.indexes.shrink_to_fit();
    }

    Ok(Catalog {
        version,
        database: field(&database, "database")?,
        encoding: field(&database, "encoding")?,
        schemas,
        extensions,
        tables,
        sequences,
        materialized_views: refresh_order(views, &reads),
        foreign_keys,
        enums,
        large_objects: field::<i64>(&database, "large_objects")?.unsigned_abs(),
    })
}

/// The names of the user's schemas.
///
/// # Errors
/// `Sql` or `Connect`.
pub async fn read_schemas(session: &Session) -> Result<Vec<String>> {
    let schemas = query::rows(session, "list schemas", &query::schemas()).await?;
    schemas.iter().map(|row| field(row, "nspname")).collect()
}

/// The table a row of another query belongs to, if the first query saw it.
fn owner<'a>(
    tables: &'a mut [Table],
    by_oid: &HashMap<RelationId, usize>,
    row: &Row,
    column: &str,
) -> Result<Option<&'a mut Table>> {
    let position = by_oid.get(&relation(row, column)?).copied();
    Ok(position.and_then(|position| tables.get_mut(position)))
}

fn oid(row: &Row, column: &str) -> Result<Oid> {
    field::<u32>(row, column).map(Oid::new)
}

fn relation(row: &Row, column: &str) -> Result<RelationId> {
    field::<u32>(row, column).map(RelationId::new)
}

fn name(row: &Row, column: &str) -> Result<QualifiedName> {
    Ok(QualifiedName::new(field::<&str>(row, "nspname")?, field::<&str>(row, column)?))
}

/// Reads a one-letter code; a letter that no documented version writes is an error, never a guess.
fn code<T>(row: &Row, column: &str, meaning: impl Fn(char) -> Option<T>) -> Result<T> {
    let letter = letter(row, column)?;
    meaning(letter).ok_or_else(|| {
        Error::new(ErrorKind::Protocol, format!("understand {letter:?} in the catalogs' {column}"))
            .hint("This server is newer than pgstream, or not PostgreSQL.")
    })
}

fn extension(row: &Row) -> Result<Extension> {
    Ok(Extension {
        name: field(row, "extname")?,
        schema: field(row, "nspname")?,
        requires: field(row, "requires")?,
    })
}

fn table(row: &Row, texts: &mut TextPool) -> Result<Table> {
    let parents: Vec<u32> = field(row, "parents")?;
    let triggers: Vec<String> = field(row, "triggers")?;
    Ok(Table {
        oid: relation(row, "oid")?,
        name: QualifiedName {
            schema: Identifier::shared(texts.get(field(row, "nspname")?)),
            name: Identifier::new(field::<&str>(row, "relname")?),
        },
        kind: code(row, "relkind", |letter| match letter {
            'r' => Some(TableKind::Ordinary),
            'p' => Some(TableKind::Partitioned),
            'f' => Some(TableKind::Foreign),
            _ => None,
        })?,
        persistence: code(row, "relpersistence", |letter| match letter {
            'p' => Some(Persistence::Permanent),
            'u' => Some(Persistence::Unlogged),
            _ => None,
        })?,
        owner: texts.get(field(row, "owner")?),
        is_partition: field(row, "relispartition")?,
        parents: parents.into_iter().map(RelationId::new).collect(),
        extension: field(row, "extname")?,
        replica_identity: code(row, "relreplident", |letter| match letter {
            'd' => Some(RelReplIdent::Default),
            'n' => Some(RelReplIdent::Nothing),
            'f' => Some(RelReplIdent::Full),
            'i' => Some(RelReplIdent::Index),
            _ => None,
        })?,
        row_security: field(row, "relrowsecurity")?,
        replica_triggers: triggers.into_iter().map(Identifier::new).collect(),
        has_rules: field(row, "has_rules")?,
        blocks: field::<i64>(row, "blocks")?.unsigned_abs(),
        bytes: field::<i64>(row, "bytes")?.unsigned_abs(),
        rows_estimate: field(row, "reltuples")?,
        columns: Vec::new(),
        indexes: Vec::new(),
    })
}

fn column(row: &Row, types: &TypeMap, texts: &mut TextPool) -> Result<Column> {
    let type_oid = oid(row, "atttypid")?;
    let known = types.get(type_oid);
    Ok(Column {
        number: field(row, "attnum")?,
        name: Identifier::shared(texts.get(field(row, "attname")?)),
        type_oid,
        // A type that vanished between two queries: the careful answers, and a name nothing can match.
        type_name: known.map_or_else(|| Arc::new(QualifiedName::new("", "???")), |row| Arc::clone(&row.name)),
        type_text: texts.get(field(row, "type_text")?),
        type_modifier: field(row, "atttypmod")?,
        type_kind: known.map_or(TypeKind::Pseudo, |row| row.kind),
        base_kind: types.base_kind(type_oid),
        array_oid: known.and_then(|row| row.array),
        transfer: types.transfer(type_oid),
        binary: types.binary(type_oid),
        not_null: field(row, "attnotnull")?,
        generated: code(row, "attgenerated", |letter| match letter {
            '\0' => Some(Generated::No),
            's' => Some(Generated::Stored),
            'v' => Some(Generated::Virtual),
            _ => None,
        })?,
        identity: code(row, "attidentity", |letter| match letter {
            '\0' => Some(IdentityColumn::No),
            'a' => Some(IdentityColumn::Always),
            'd' => Some(IdentityColumn::ByDefault),
            _ => None,
        })?,
        has_equality: types.has_equality(type_oid),
    })
}

fn type_row(row: &Row) -> Result<TypeRow> {
    let is_array: bool = field(row, "is_array")?;
    let kind = code(row, "typtype", |letter| match letter {
        'b' if is_array => Some(TypeKind::Array),
        'b' => Some(TypeKind::Base),
        'c' => Some(TypeKind::Composite),
        'd' => Some(TypeKind::Domain),
        'e' => Some(TypeKind::Enum),
        'r' => Some(TypeKind::Range),
        'm' => Some(TypeKind::Multirange),
        'p' => Some(TypeKind::Pseudo),
        _ => None,
    })?;
    let parts = match kind {
        TypeKind::Array => vec![oid(row, "typelem")?],
        TypeKind::Domain => vec![oid(row, "typbasetype")?],
        TypeKind::Range | TypeKind::Multirange => vec![oid(row, "subtype")?],
        TypeKind::Composite => field::<Vec<u32>>(row, "members")?.into_iter().map(Oid::new).collect(),
        TypeKind::Base | TypeKind::Enum | TypeKind::Pseudo => Vec::new(),
    };
    Ok(TypeRow {
        oid: oid(row, "oid")?,
        name: Arc::new(name(row, "typname")?),
        kind,
        array: Some(oid(row, "typarray")?).filter(|array| array.get() != 0),
        parts,
        has_binary: field(row, "has_binary")?,
        extension: field(row, "extension")?,
        is_sortable: field(row, "is_sortable")?,
    })
}

fn index(row: &Row, table: &Table) -> Result<Index> {
    let (primary, unique, exclusion): (bool, bool, bool) =
        (field(row, "indisprimary")?, field(row, "indisunique")?, field(row, "indisexclusion")?);
    let kind = match (primary, exclusion, unique) {
        (true, _, _) => IndexKind::Primary,
        (false, true, _) => IndexKind::Exclusion,
        (false, false, true) => IndexKind::Unique,
        (false, false, false) => IndexKind::Plain,
    };
    let mut index = Index {
        oid: oid(row, "indexrelid")?,
        name: Identifier::new(field::<&str>(row, "relname")?),
        kind,
        key: field(row, "key")?,
        is_partial: field(row, "is_partial")?,
        is_immediate: field(row, "indimmediate")?,
        is_valid: field(row, "indisvalid")?,
        is_replica_identity: field(row, "indisreplident")?,
        is_identity_eligible: false,
    };
    index.is_identity_eligible = unique && !exclusion && identifies_rows(&index, table);
    Ok(index)
}

/// `ALTER TABLE … REPLICA IDENTITY USING INDEX` takes a unique, valid, immediate, whole index on plain
/// NOT NULL columns (P06). Generated ones are not published, so they identify nothing (P39).
fn identifies_rows(index: &Index, table: &Table) -> bool {
    let column = |number: &i16| table.columns.iter().find(|column| column.number == *number);
    let usable = |column: &Column| column.not_null && column.generated == Generated::No;
    index.is_valid
        && index.is_immediate
        && !index.is_partial
        && index.key.iter().all(|number| column(number).is_some_and(usable))
}

fn sequence(row: &Row) -> Result<Sequence> {
    Ok(Sequence { oid: oid(row, "oid")?, name: name(row, "relname")? })
}

fn materialized_view(row: &Row) -> Result<MaterializedView> {
    Ok(MaterializedView {
        oid: oid(row, "oid")?,
        name: name(row, "relname")?,
        is_populated: field(row, "relispopulated")?,
    })
}

fn view_read(row: &Row) -> Result<(Oid, Oid)> {
    Ok((oid(row, "reader")?, oid(row, "read")?))
}

fn foreign_key(row: &Row) -> Result<ForeignKey> {
    Ok(ForeignKey {
        name: field(row, "conname")?,
        table: relation(row, "conrelid")?,
        references: relation(row, "confrelid")?,
    })
}

fn enum_type(row: &Row) -> Result<EnumType> {
    Ok(EnumType { name: name(row, "typname")?, labels: field(row, "labels")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing;

    #[test]
    fn only_a_whole_index_on_plain_not_null_columns_identifies_rows() {
        let index = testing::index("i", IndexKind::Unique);
        let table = testing::keyed(1, "t");
        assert!(identifies_rows(&index, &table));
        for bad in [
            Index { is_valid: false, ..index.clone() },
            Index { is_immediate: false, ..index.clone() },
            Index { is_partial: true, ..index.clone() },
            Index { key: vec![1, 0], ..index.clone() },
        ] {
            assert!(!identifies_rows(&bad, &table), "{bad:?}");
        }
        let mut nullable = table.clone();
        nullable.columns[0].not_null = false;
        assert!(!identifies_rows(&index, &nullable));
        let mut generated = table;
        generated.columns[0].generated = Generated::Stored;
        assert!(!identifies_rows(&index, &generated));
    }
}
