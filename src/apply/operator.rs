//! What must be asked of the target about its types, once, before values can be compared and listed there.
//!
//! Hazard: with an empty `search_path` a plain `=` does not find citext's operator and quietly takes text's;
//! and `,` does not separate the elements of every array: PostGIS and `box` have their own delimiter.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::answer::field;
use crate::catalog::{Column, Table};
use crate::error::{Error, Result};
use crate::pg::{Identifier, Oid, QualifiedName, RelationId};
use crate::wire::Session;

/// Facts about one type on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TypeFacts {
    /// What separates elements in the text form of an array of it.
    pub(super) delimiter: char,
    /// The type itself, or what a domain rests on at the bottom.
    pub(super) base: QualifiedName,
    /// `OPERATOR(schema.=)` of its own default btree operator class; none when it borrows another type's.
    pub(super) equality: Option<String>,
}

/// Facts about the types and columns of the target's tables.
#[derive(Debug, Clone, Default)]
pub(super) struct TargetFacts {
    types: HashMap<Oid, TypeFacts>,
    /// Columns whose collation holds different spellings equal (12+).
    loose_collations: HashSet<(RelationId, i16)>,
}

/// The operator that serves types without one of their own: varchar, enums, arrays, ranges, composites.
const BUILTIN_EQUALITY: &str = "OPERATOR(pg_catalog.=)";

const TYPES: &str = "
WITH RECURSIVE base (oid, type) AS (
    SELECT t.oid, t.oid FROM pg_type t WHERE t.oid = ANY ($1)
    UNION ALL
    SELECT b.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT b.oid, e.typdelim, n.nspname, o.oprname, m.nspname, u.typname
FROM base b
JOIN pg_type u ON u.oid = b.type AND u.typtype <> 'd'
JOIN pg_type e ON e.oid = b.oid
JOIN pg_namespace m ON m.oid = u.typnamespace
LEFT JOIN pg_opclass c ON c.opcintype = u.oid AND c.opcdefault
    AND c.opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree')
LEFT JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3
    AND a.amoplefttype = u.oid AND a.amoprighttype = u.oid
LEFT JOIN pg_operator o ON o.oid = a.amopopr
LEFT JOIN pg_namespace n ON n.oid = o.oprnamespace";

// Through to_jsonb, because pg_collation.collisdeterministic exists from 12 on.
const LOOSE_COLLATIONS: &str = "
SELECT a.attrelid, a.attnum
FROM pg_collation c JOIN pg_attribute a ON a.attcollation = c.oid
WHERE to_jsonb(c) ->> 'collisdeterministic' = 'false' AND a.attrelid = ANY ($1) AND a.attnum > 0";

impl TargetFacts {
    /// Asks about every type and column of `tables`.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them.
    pub(super) async fn load(session: &Session, tables: &[Table]) -> Result<TargetFacts> {
        let failed = |error| Error::from_postgres("read the target's types", error);
        let types: BTreeSet<u32> = tables
            .iter()
            .flat_map(|table| table.columns.iter().map(|column| column.type_oid.get()))
            .collect();
        let types: Vec<u32> = types.into_iter().collect();
        let relations: Vec<u32> = tables.iter().map(|table| table.oid.get()).collect();
        let mut facts = TargetFacts::default();
        for row in session.query(TYPES, &[&types]).await.map_err(failed)? {
            let delimiter = char::from(u8::try_from(field::<i8>(&row, 1)?).unwrap_or(b','));
            let base = QualifiedName::new(field::<String>(&row, 4)?, field::<String>(&row, 5)?);
            let (schema, operator): (Option<String>, Option<String>) = (field(&row, 2)?, field(&row, 3)?);
            let equality = schema
                .zip(operator)
                .map(|(schema, operator)| format!("OPERATOR({}.{operator})", Identifier::new(schema)));
            facts.types.insert(Oid::new(field(&row, 0)?), TypeFacts { delimiter, base, equality });
        }
        for row in session.query(LOOSE_COLLATIONS, &[&relations]).await.map_err(failed)? {
            facts.loose_collations.insert((RelationId::new(field(&row, 0)?), field(&row, 1)?));
        }
        Ok(facts)
    }

    /// What separates the elements of an array of the column's type.
    pub(super) fn delimiter(&self, column: &Column) -> char {
        self.types.get(&column.type_oid).map_or(',', |facts| facts.delimiter)
    }

    /// The column's type, or what its domain rests on.
    pub(super) fn base<'c>(&'c self, column: &'c Column) -> &'c QualifiedName {
        self.types.get(&column.type_oid).map_or(&column.type_name, |facts| &facts.base)
    }

    /// The operator under which the column's type is unique; none for types without equality (P09).
    pub(super) fn equality(&self, column: &Column) -> Option<String> {
        let own = self.types.get(&column.type_oid).and_then(|facts| facts.equality.clone());
        own.or_else(|| column.has_equality.then(|| BUILTIN_EQUALITY.to_owned()))
    }

    /// Whether the column's collation holds different spellings equal.
    pub(super) fn is_loose(&self, table: &Table, column: &Column) -> bool {
        self.loose_collations.contains(&(table.oid, column.number))
    }
}
