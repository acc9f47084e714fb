//! Whether the stream's values may come in binary: decided before it starts, watched while it goes.
//!
//! Hazard: the format is one for the whole stream, and nobody here can turn a binary value into text. One column
//! whose bytes mean something else on the target (P60) makes the whole stream text. Such a column may also come
//! later, with a table or an `ALTER TABLE`: then the applier stops before it takes a value of it, and the caller
//! begins again in text ([`needs_text`]).

use std::collections::HashMap;

use crate::catalog::{BinaryForm, Table, TableKind};
use crate::error::{Error, ErrorKind};
use crate::pg::{Identifier, Oid, QualifiedName};
use crate::pgoutput::Relation;

use super::relations::TableWatermarks;

/// How the stream's values come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ValueFormat {
    /// As text; also where nobody asked.
    #[default]
    Text,
    /// In binary; with the forms of the source's types that are not built in.
    Binary(HashMap<Oid, BinaryForm>),
}

/// A column that cannot be carried in binary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column} of {} has no binary form that the target reads as the source writes it", table.plain())]
pub struct NotInBinary {
    /// Its table.
    pub table: QualifiedName,
    /// Its name.
    pub column: Identifier,
}

/// OIDs below this mean the same type on every server (access/transam.h, FirstGenbkiObjectId).
const FIRST_UNSTABLE: Oid = Oid::new(10_000);

impl ValueFormat {
    /// Binary, if every column of every table that is migrated can be carried so.
    ///
    /// # Errors
    /// The first column that cannot.
    pub fn choose<'a>(
        source: impl IntoIterator<Item = &'a Table>,
        target: &[Table],
        migrated: &TableWatermarks,
    ) -> Result<ValueFormat, NotInBinary> {
        let twins: HashMap<&QualifiedName, &Table> =
            target.iter().map(|table| (&table.name, table)).collect();
        let mut forms = HashMap::new();
        let carried = source
            .into_iter()
            .filter(|table| table.kind == TableKind::Ordinary && migrated.get(&table.name).is_some());
        for table in carried {
            // What is missing on the target is drift, and told when it is met.
            let Some(twin) = twins.get(&table.name) else { continue };
            for column in table.writable_columns() {
                let shared = |other: &crate::catalog::Column| {
                    column.binary.is_shared_with(&other.binary) && column.type_name == other.type_name
                };
                if !twin.column(column.name.raw()).is_none_or(shared) {
                    return Err(NotInBinary { table: table.name.clone(), column: column.name.clone() });
                }
                if column.type_oid >= FIRST_UNSTABLE {
                    forms.insert(column.type_oid, column.binary.clone());
                }
            }
        }
        Ok(ValueFormat::Binary(forms))
    }

    /// Whether values of a table that the stream announces can be read, when it comes in this format.
    pub(super) fn check(&self, relation: &Relation, target: &Table) -> Result<(), NotInBinary> {
        let ValueFormat::Binary(forms) = self else { return Ok(()) };
        let unreadable = relation.columns.iter().find_map(|column| {
            let twin = target.column(&column.name)?;
            let form = match column.type_oid < FIRST_UNSTABLE {
                // A wider type holds the text of the narrower one's values, not their bytes.
                true if column.type_oid != twin.type_oid => None,
                true => Some(&twin.binary),
                false => forms.get(&column.type_oid),
            };
            (!form.is_some_and(|form| form.is_shared_with(&twin.binary))).then(|| twin.name.clone())
        });
        unreadable.map_or(Ok(()), |column| Err(NotInBinary { table: target.name.clone(), column }))
    }
}

impl NotInBinary {
    pub(super) fn into_error(self) -> Error {
        Error::new(ErrorKind::Drift, "read changes in binary")
            .hint("The stream begins again in text by itself; if it does not, run the same command again.")
            .because(self)
    }
}

/// Whether the applier stopped only because values came in binary that the target cannot read so.
#[must_use]
pub fn needs_text(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<NotInBinary>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::{column, relation, table};
    use crate::catalog::Column;
    use crate::pg::Lsn;
    use crate::pgoutput::ReplicaIdentity;

    fn user_type(oid: u32, binary: BinaryForm) -> Column {
        let type_name = QualifiedName::new("s", "mood");
        Column { type_oid: Oid::new(oid), type_name: type_name.into(), binary, ..column("m", "text") }
    }

    fn plain() -> BinaryForm {
        BinaryForm::Reads { extensions: vec![] }
    }

    fn choose(source: Column, target: Column) -> Result<ValueFormat, NotInBinary> {
        let [source, target] = [source, target].map(|column| [table(vec![column], vec![])]);
        let migrated = [(QualifiedName::new("s", "t"), Lsn::ZERO)].into_iter().collect();
        ValueFormat::choose(&source, &target, &migrated)
    }

    #[test]
    fn user_types_may_have_other_oids() {
        let forms = HashMap::from([(Oid::new(20_000), plain())]);
        let chosen = choose(user_type(20_000, plain()), user_type(30_000, plain()));
        assert_eq!(chosen, Ok(ValueFormat::Binary(forms)));
    }

    #[test]
    fn one_column_makes_the_stream_text() {
        for (source, target) in [
            (user_type(20_000, BinaryForm::Opaque), user_type(20_000, BinaryForm::Opaque)),
            (user_type(20_000, plain()), user_type(20_000, BinaryForm::Opaque)),
            (
                user_type(20_000, BinaryForm::Reads { extensions: vec!["h 1".into()] }),
                user_type(20_000, plain()),
            ),
            (column("m", "text"), user_type(20_000, plain())),
        ] {
            let refused = choose(source, target).unwrap_err();
            assert_eq!(refused.column, Identifier::new("m"));
        }
    }

    #[test]
    fn tables_that_are_not_migrated_do_not_count() {
        let opaque = [table(vec![user_type(20_000, BinaryForm::Opaque)], vec![])];
        let none = TableWatermarks::default();
        assert_eq!(ValueFormat::choose(&opaque, &opaque, &none), Ok(ValueFormat::Binary(HashMap::new())));
    }

    #[test]
    fn a_type_that_came_later_is_not_read_in_binary() {
        let target = table(vec![user_type(30_000, plain())], vec![]);
        let announced = relation(ReplicaIdentity::Nothing, &[("m", 20_000, false)]);
        let unknown = ValueFormat::Binary(HashMap::new()).check(&announced, &target).unwrap_err();
        assert!(needs_text(&unknown.into_error()));
        let known = ValueFormat::Binary(HashMap::from([(Oid::new(20_000), plain())]));
        assert_eq!(known.check(&announced, &target), Ok(()));
        assert_eq!(ValueFormat::Text.check(&announced, &target), Ok(()));
    }
}
