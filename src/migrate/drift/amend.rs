//! What the target needs to take the shape that the stream has reached. Pure.
//!
//! Hazard: a statement that only looks additive loses values. A new column beside one that only the target
//! has may be that one renamed, and its old rows are full; a default may have filled rows with values that no
//! stream carries; a narrower type rounds. Such steps are the operator's ([`Reach::Operator`]).

use std::fmt;

use crate::catalog::{
    AddedColumn, EnumType, Fill, Generated, IdentityColumn, Index, IndexKind, Table, TypeUse,
};
use crate::pg::{Identifier, QualifiedName, quote_literal};

/// Whether a step can be done without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It only adds, and what is there keeps its value.
    Additive,
    Operator,
}

/// One thing that the target lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// What has changed: "column b is new".
    pub(super) why: String,
    /// What to run on the target, one statement each; none where only a person can tell.
    pub(super) statements: Vec<String>,
    pub(super) reach: Reach,
}

impl Step {
    pub(super) fn additive(why: impl Into<String>, statements: Vec<String>) -> Step {
        Step { why: why.into(), statements, reach: Reach::Additive }
    }

    pub(super) fn operator(why: impl Into<String>, statements: Vec<String>) -> Step {
        Step { why: why.into(), statements, reach: Reach::Operator }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        self.statements.iter().try_for_each(|statement| write!(f, "\n    {statement};"))
    }
}

/// A column as the stream announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) name: Identifier,
    pub(super) is_key: bool,
    /// As `format_type` writes it on the source, schema included.
    pub(super) type_text: String,
    /// Name in `pg_catalog`, if it is built in.
    pub(super) builtin: Option<String>,
    pub(super) modifier: i32,
    /// The table whose own column it is: what a partition or a child has from its parent is altered there.
    pub(super) home: QualifiedName,
    /// What it was made with, if the target lacks it and the source still has it.
    pub(super) made: Option<AddedColumn>,
}

/// A table as the stream announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) columns: Vec<Announced>,
    pub(super) key: Key,
}

/// What the columns of the key are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Primary,
    /// An index chosen by REPLICA IDENTITY, or the whole row.
    Other,
}

/// What happened to the rows that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldRows {
    /// The table still has the file that it was copied from.
    Untouched,
    /// They were written anew, or the table was emptied: what is not noted is not known.
    Unknown,
}

/// The steps that let changes of the announced shape be applied to the target's table. None where it has that
/// shape, or the later one that the source has now.
pub(super) fn amend(shape: &Shape, source: Option<&Table>, target: &Table, old_rows: OldRows) -> Vec<Step> {
    let announced = &shape.columns;
    let extra: Vec<&Identifier> = target
        .columns
        .iter()
        .filter(|column| column.generated == Generated::No)
        .map(|column| &column.name)
        .filter(|name| announced.iter().all(|column| column.name != **name))
        .filter(|name| source.is_none_or(|source| source.column(name.raw()).is_none()))
        .collect();
    let missing = |column: &&Announced| target.column(column.name.raw()).is_none();
    let new: Vec<&Announced> = announced
        .iter()
        .filter(missing)
        // What neither end has any more needs no place.
        .filter(|column| {
            column.is_key || source.is_none_or(|source| source.column(column.name.raw()).is_some())
        })
        .collect();
    let mut steps = Vec::new();
    match (new.as_slice(), extra.as_slice()) {
        ([], []) => {}
        (new, []) => steps.extend(new.iter().map(|column| added(column, source, target, old_rows))),
        ([], gone) => steps.extend(gone.iter().map(|column| {
            let drop = format!("ALTER TABLE {} DROP COLUMN {column}", target.name);
            Step::operator(
                format!("column {column} is on the target only: dropped on the source"),
                vec![drop],
            )
        })),
        ([new], [old]) => {
            let rename = format!("ALTER TABLE {} RENAME COLUMN {old} TO {}", target.name, new.name);
            steps.push(Step::operator(
                format!(
                    "column {} is new and {old} is gone: if it was renamed, run the following; if not, drop {old} \
                     first",
                    new.name
                ),
                vec![rename],
            ));
        }
        (new, gone) => {
            let names = |names: &mut dyn Iterator<Item = &Identifier>| {
                names.map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let new = names(&mut new.iter().map(|column| &column.name));
            let gone = names(&mut gone.iter().copied());
            let why = format!(
                "columns {new} are new and {gone} are gone: rename, or drop and add, as was done on the source"
            );
            steps.push(Step::operator(why, Vec::new()));
        }
    }
    steps.extend(announced.iter().filter_map(|column| retyped(column, source, target)));
    steps.extend(rekeyed(shape, source, target));
    steps
}

fn added(column: &Announced, source: Option<&Table>, target: &Table, old_rows: OldRows) -> Step {
    let (name, type_text) = (&column.name, &column.type_text);
    let now = source.and_then(|source| source.column(name.raw()));
    let to = &column.home;
    let (Some(now), Some(made)) = (now, &column.made) else {
        let add = format!("ALTER TABLE {} ADD COLUMN {name} {type_text}", target.name);
        return Step::operator(format!("column {name} was new, and is changed again since"), vec![add]);
    };
    let collate = made.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    let not_null = if now.not_null { " NOT NULL" } else { "" };
    let default = |expression: &str| format!(" DEFAULT {expression}");
    let add =
        |default: &str| format!("ALTER TABLE {to} ADD COLUMN {name} {type_text}{collate}{default}{not_null}");
    let set_default = |default: Option<&String>| match default {
        Some(default) => format!("ALTER TABLE {to} ALTER COLUMN {name} SET DEFAULT {default}"),
        None => format!("ALTER TABLE {to} ALTER COLUMN {name} DROP DEFAULT"),
    };
    if now.identity != IdentityColumn::No {
        let identity = match now.identity {
            IdentityColumn::Always => " GENERATED ALWAYS AS IDENTITY",
            IdentityColumn::ByDefault | IdentityColumn::No => " GENERATED BY DEFAULT AS IDENTITY",
        };
        let why = format!(
            "column {name} is new, and rows that were there have got numbers that the stream does not carry"
        );
        return Step::operator(why, vec![add(identity)]);
    }
    let why = format!("column {name} is new");
    match (&made.fill, old_rows) {
        (Fill::Value(value), _) => {
            let literal = format!("{}::{type_text}", quote_literal(value));
            let says = |default: &String| *default == literal || default == value;
            match made.default.as_ref().filter(|default| says(default)) {
                Some(plain) => Step::additive(why, vec![add(&default(plain))]),
                None => {
                    Step::additive(why, vec![add(&default(&literal)), set_default(made.default.as_ref())])
                }
            }
        }
        (Fill::NotNoted, OldRows::Untouched) => match &made.default {
            None => Step::additive(why, vec![add("")]),
            Some(_) => Step::additive(why, vec![add(""), set_default(made.default.as_ref())]),
        },
        (Fill::NotNoted | Fill::Unreadable, _) => {
            let why = format!(
                "column {name} is new, and rows that were there may have got values that the stream does not carry: \
                 add it, and see that they are the source's"
            );
            Step::operator(why, vec![add(&made.default.as_deref().map(default).unwrap_or_default())])
        }
    }
}

fn retyped(column: &Announced, source: Option<&Table>, target: &Table) -> Option<Step> {
    let there = target.column(column.name.raw())?;
    if *there.type_text == *column.type_text || there.generated != Generated::No {
        return None;
    }
    let now = source.and_then(|source| source.column(column.name.raw()));
    let wide = |column: &Announced| column.builtin.clone().map(|name| (name, column.modifier));
    let there_type = TypeUse { name: there.type_name.name.raw(), modifier: there.type_modifier };
    let announced_type = wide(column);
    let announced_type =
        announced_type.as_ref().map(|(name, modifier)| TypeUse { name, modifier: *modifier });
    let is_builtin = there.type_name.schema.raw() == "pg_catalog";
    // The target has what the source has become; what is still to come must fit in.
    let is_ahead = now.is_some_and(|now| now.type_text == there.type_text);
    if is_ahead && is_builtin && announced_type.is_some_and(|announced| there_type.holds(&announced)) {
        return None;
    }
    let name = &column.name;
    let alter = format!("ALTER TABLE {} ALTER COLUMN {name} TYPE {}", column.home, column.type_text);
    let change =
        format!("column {name} is {} in the stream, {} on the target", column.type_text, there.type_text);
    let widens = is_builtin && announced_type.is_some_and(|announced| announced.holds(&there_type));
    Some(match (is_ahead, widens) {
        (true, _) => Step::operator(
            format!(
                "{change}: it was altered before the changes of before had come; set it back until they have"
            ),
            vec![alter],
        ),
        (false, true) => Step::additive(change, vec![alter]),
        (false, false) => Step::operator(change, vec![alter]),
    })
}

fn rekeyed(shape: &Shape, source: Option<&Table>, target: &Table) -> Option<Step> {
    if shape.key == Key::Other {
        return None;
    }
    let key: Vec<&Identifier> =
        shape.columns.iter().filter(|column| column.is_key).map(|column| &column.name).collect();
    let is_of = |index: &Index, table: &Table| {
        let names: Vec<&Identifier> = table
            .columns
            .iter()
            .filter(|column| index.key.contains(&column.number))
            .map(|column| &column.name)
            .collect();
        names.len() == key.len() && key.iter().all(|name| names.contains(name))
    };
    let primary = target.indexes.iter().find(|index| index.kind == IndexKind::Primary)?;
    let is_unique = target
        .indexes
        .iter()
        .any(|index| matches!(index.kind, IndexKind::Primary | IndexKind::Unique) && is_of(index, target));
    let mut on_source = source.iter().flat_map(|source| {
        source.indexes.iter().filter(|index| index.kind == IndexKind::Primary).map(|index| (index, *source))
    });
    // Where the source's is yet another one, or the target's is that already, the shape is an old one.
    if key.is_empty() || is_unique || !on_source.any(|(index, source)| is_of(index, source)) {
        return None;
    }
    let columns: Vec<String> = key.iter().map(ToString::to_string).collect();
    Some(Step::operator(
        "the primary key is another",
        vec![format!(
            "ALTER TABLE {} DROP CONSTRAINT {}, ADD PRIMARY KEY ({})",
            target.name,
            primary.name,
            columns.join(", ")
        )],
    ))
}

/// The steps that give the target's enum types the source's values.
pub(super) fn amend_enums(source: &[EnumType], target: &[EnumType]) -> Vec<Step> {
    let twins = source.iter().filter_map(|kind| {
        let twin = target.iter().find(|twin| twin.name == kind.name)?;
        Some((kind, twin))
    });
    twins.flat_map(|(kind, twin)| amend_enum(kind, twin)).collect()
}

fn amend_enum(source: &EnumType, target: &EnumType) -> Vec<Step> {
    let missing: Vec<usize> =
        (0..source.labels.len()).filter(|at| !target.labels.contains(&source.labels[*at])).collect();
    let gone: Vec<&String> = target.labels.iter().filter(|label| !source.labels.contains(label)).collect();
    if let ([first, ..], [old, ..]) = (missing.as_slice(), gone.as_slice()) {
        let new = source.labels.get(*first).map_or("", String::as_str);
        let rename = format!(
            "ALTER TYPE {} RENAME VALUE {} TO {}",
            source.name,
            quote_literal(old),
            quote_literal(new)
        );
        let why =
            format!("type {}: a value is new and another gone: if it was renamed, run", source.name.plain());
        return vec![Step::operator(why, vec![rename])];
    }
    let step = |at: &usize| {
        let place = match at.checked_sub(1).and_then(|before| source.labels.get(before)) {
            Some(before) => format!(" AFTER {}", quote_literal(before)),
            None => target
                .labels
                .first()
                .map(|first| format!(" BEFORE {}", quote_literal(first)))
                .unwrap_or_default(),
        };
        let label = quote_literal(&source.labels[*at]);
        let add = format!("ALTER TYPE {} ADD VALUE {label}{place}", source.name);
        Step::additive(format!("type {} has a new value", source.name.plain()), vec![add])
    };
    missing.iter().map(step).collect()
}

/// The step that makes an enum type which only the source has.
pub(super) fn create_enum(source: &EnumType) -> Step {
    let labels: Vec<String> = source.labels.iter().map(|label| quote_literal(label)).collect();
    let create = format!("CREATE TYPE {} AS ENUM ({})", source.name, labels.join(", "));
    Step::additive(format!("type {} is new", source.name.plain()), vec![create])
}

#[cfg(test)]
mod tests;
