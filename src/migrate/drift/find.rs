//! Reads both ends, and finds what the target lacks for the stream to go on.
//!
//! Hazard: the source is read as it is now, and the stream may be behind it. So only columns that the stream
//! has announced are looked at, in the types that it announced; the source says how they were made.

use super::amend::{Announced, Key, OldRows, Shape, Step, amend, amend_enums, create_enum};
use super::partition;
use crate::bulk::ledger;
use crate::catalog::{self, Catalog, Table};
use crate::error::{Error, ErrorKind, Result};
use crate::migrate::run::Run;
use crate::migrate::unseen;
use crate::pg::{Identifier, QualifiedName, SqlState};
use crate::pgoutput::{Relation, ReplicaIdentity};
use std::sync::Arc;

/// What a change could not be applied for.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// A table that the stream announced in another shape than the target's.
    Shape(Arc<Relation>),
    /// A row whose refusal may come from an enum value that the target lacks.
    Refused,
    /// The target's definitions, which changed under our hands.
    Target,
}

impl Subject {
    /// What `error` is about; none if it has nothing to do with definitions.
    pub(super) fn of(error: &Error) -> Option<Subject> {
        let cause = std::error::Error::source(error);
        match (error.kind(), cause.and_then(|cause| cause.downcast_ref::<crate::apply::Drifted>())) {
            (ErrorKind::Drift, Some(drifted)) => Some(Subject::Shape(Arc::clone(&drifted.relation))),
            (ErrorKind::Drift, None) => Some(Subject::Target),
            // The input function of an enum knows no such value.
            (ErrorKind::Apply, _) if error.sqlstate() == Some(SqlState::INVALID_TEXT_REPRESENTATION) => {
                Some(Subject::Refused)
            }
            _ => None,
        }
    }

    /// The table, by the name that the stream gives it.
    pub(super) fn table(&self) -> Option<QualifiedName> {
        match self {
            Subject::Shape(relation) => Some(name(relation)),
            Subject::Refused | Subject::Target => None,
        }
    }
}

pub(super) fn name(relation: &Relation) -> QualifiedName {
    QualifiedName::new(relation.namespace.as_str(), relation.name.as_str())
}

/// What is to be done before a change of `subject` can be applied; nothing if that can be tried now.
pub(super) async fn find(run: &Run, subject: &Subject) -> Result<Vec<Step>> {
    let relation = match subject {
        Subject::Target => return Ok(Vec::new()),
        Subject::Refused => {
            let (source, target) = (catalog::load(&run.source).await?, catalog::load(&run.target).await?);
            return Ok(amend_enums(&source.enums, &target.enums));
        }
        Subject::Shape(relation) => relation,
    };
    let (source, target) = (catalog::load(&run.source).await?, catalog::load(&run.target).await?);
    let name = name(relation);
    let now = source.table(relation.id).filter(|table| table.name == name);
    let is_known = ledger::read(&run.target).await?.contains_key(&name);
    let Some(there) = target.table_named(&name).filter(|there| is_known || there.is_partition) else {
        return partition::find(run, relation, &source, &target, is_known).await;
    };
    let old_rows = match unseen::is_untouched(run, &name).await? {
        true => OldRows::Untouched,
        false => OldRows::Unknown,
    };
    let columns = announced(run, relation, &source, there).await?;
    let mut steps: Vec<Step> = columns
        .iter()
        .filter(|column| there.column(column.name.raw()).is_none())
        .filter_map(|column| source.enums.iter().find(|kind| is_of(kind, &column.type_text)))
        .filter(|kind| !target.enums.iter().any(|twin| twin.name == kind.name))
        .map(create_enum)
        .collect();
    let key = match relation.replica_identity {
        ReplicaIdentity::Default => Key::Primary,
        ReplicaIdentity::Index | ReplicaIdentity::Full | ReplicaIdentity::Nothing => Key::Other,
    };
    steps.extend(amend(&Shape { columns, key }, now, there, old_rows));
    Ok(steps)
}

/// Whether a column of that type holds values of the enum, one or an array of them.
fn is_of(kind: &catalog::EnumType, type_text: &str) -> bool {
    let plain = kind.name.plain();
    type_text.strip_suffix("[]").unwrap_or(type_text) == plain
}

/// The relation's columns, with what only the source can tell of them.
async fn announced(
    run: &Run,
    relation: &Relation,
    source: &Catalog,
    target: &Table,
) -> Result<Vec<Announced>> {
    let (mut oids, mut modifiers) = (Vec::new(), Vec::new());
    for column in &relation.columns {
        oids.push(column.type_oid.get());
        modifiers.push(column.type_modifier);
    }
    let rows = run
        .source
        .query(
            "SELECT pg_catalog.format_type(t.oid, t.modifier), b.typname::text
               FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY AS t (oid, modifier, position)
               LEFT JOIN pg_catalog.pg_type b ON b.oid = t.oid AND t.oid < 10000
              ORDER BY t.position",
            &[&oids, &modifiers],
        )
        .await
        .map_err(|error| Error::from_postgres("read the types that the stream names", error))?;
    let mut announced = Vec::with_capacity(relation.columns.len());
    for (column, row) in relation.columns.iter().zip(&rows) {
        let name = Identifier::new(column.name.as_str());
        let (home, made) = match source.table(relation.id) {
            Some(now) => {
                let home = home(source, now, &name);
                let made = match target.column(name.raw()) {
                    Some(_) => None,
                    None => {
                        catalog::read_added_column(&run.source, run.source_version, now.oid, &name).await?
                    }
                };
                (home.name.clone(), made)
            }
            None => (target.name.clone(), None),
        };
        announced.push(Announced {
            name,
            is_key: column.is_key,
            type_text: row.get(0),
            builtin: row.get(1),
            modifier: column.type_modifier,
            home,
            made,
        });
    }
    Ok(announced)
}

/// The table that a column was added to: a partition or a child has it from there.
fn home<'c>(catalog: &'c Catalog, table: &'c Table, column: &Identifier) -> &'c Table {
    let mut home = table;
    // No deeper than there are tables.
    for _ in 0..catalog.tables.len() {
        let mut parents = home.parents.iter().filter_map(|parent| catalog.table(*parent));
        match parents.find(|parent| parent.column(column.raw()).is_some()) {
            Some(parent) => home = parent,
            None => break,
        }
    }
    home
}
