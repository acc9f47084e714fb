//! The SQL of a batch: one text per table, action and set of columns, whatever the number of rows.
//!
//! Hazard: a cast with a modifier cuts values off in silence (`bit` alone means `bit(1)`), so values are
//! read by their type's own input function, without a modifier, and the assignment to the column checks the
//! rest. `unnest` flattens arrays and spreads composites: those travel as text, or in rows of the table's own
//! type, of which it spreads only the outermost. Operators are qualified, as `search_path` is empty.
//!
//! ```text
//!   UPDATE ONLY "s"."t" AS t SET "a" = u.c2
//!   FROM unnest($1::text::"pg_catalog"."int4"[], $2::text::"pg_catalog"."text"[]) AS u(c1, c2)
//!   WHERE t."id" OPERATOR(pg_catalog.=) u.c1
//! ```
//! Parameters are declared as `text` and turned into arrays on the server, so that preparing a statement
//! never has to look a type up.

use super::plan::{Action, BatchRow, Present};
use super::table::{BoundColumn, BoundTable, Carrier, Comparison};

/// Which image of a row a parameter is filled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

impl Side {
    fn field(self, at: usize) -> String {
        match self {
            Side::Old => format!("o{at}"),
            Side::New => format!("n{at}"),
        }
    }
}

/// How a parameter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An array literal of the column's type.
    TextArray,
    /// A literal of `text[]`, each element cast.
    CastArray,
    /// A binary array.
    BinaryArray,
    /// In a binary array of the table's rows: of a type that no array can carry. Once a column of a side needs it,
    /// all its binary columns travel so: a domain may refuse the NULL that stands for what is left out.
    BinaryRow,
    /// One binary value: of such a type, in a statement for one row.
    BinaryScalar,
}

/// One parameter, of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parameter {
    /// One column's values.
    Column { side: Side, column: usize, form: Form },
    /// Rows of the table with these columns; the others are NULL.
    Rows { side: Side, columns: Vec<usize> },
    /// How often each row stands in the batch.
    Counts,
}

/// A statement and what its parameters are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) parameters: Vec<Parameter>,
}

/// Writes statements for one table.
pub(super) struct Composer<'a, F> {
    table: &'a BoundTable,
    /// In which form a column's values of a side are at hand.
    form: F,
    parameters: Vec<Parameter>,
}

/// Where a parameter's values can be read.
#[derive(Debug, Clone, Copy)]
enum Alias {
    /// The rows of the batch.
    U,
    /// The old image, inside the look-up of a whole row.
    O,
}

impl Alias {
    fn name(self) -> char {
        match self {
            Alias::U => 'u',
            Alias::O => 'o',
        }
    }
}

impl<'a, F: Fn(Side, usize) -> Form> Composer<'a, F> {
    pub(super) fn new(table: &'a BoundTable, form: F) -> Composer<'a, F> {
        Composer { table, form, parameters: Vec::new() }
    }

    /// The statement for `action`; whole-row look-ups ask of the rows where their old images are NULL.
    pub(super) fn compose(mut self, action: &Action, rows: &[BatchRow]) -> Statement {
        let first = rows.first().and_then(|row| row.old.as_ref());
        let sql = match action {
            Action::Insert => self.insert(),
            Action::Delete => self.delete(),
            Action::Update(present) => self.update(present),
            Action::Rekey(present) => self.rekey(present),
            Action::DeleteWhole => self.delete_whole(first),
            Action::DeleteRows => self.delete_rows(rows),
            Action::UpdateWhole(present) => self.update_whole(present, first),
        };
        Statement { sql, parameters: self.parameters }
    }

    fn insert(&mut self) -> String {
        let columns = written(self.table);
        let names = names(self.table, &columns);
        let source = self.source(Alias::U, columns.iter().map(|at| (Side::New, *at)));
        let values: Vec<&str> = source.values.iter().map(String::as_str).collect();
        let (name, values, from) = (&self.table.name, values.join(", "), source.from());
        format!("INSERT INTO {name} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {from}")
    }

    fn delete(&mut self) -> String {
        let key = self.table.key().to_vec();
        let source = self.source(Alias::U, key.iter().map(|at| (Side::Old, *at)));
        let matched = self.matches(key.iter().copied().zip(&source.values));
        let (only, name) = (self.table.only, &self.table.name);
        format!("DELETE FROM {only}{name} AS t USING {} WHERE {matched}", source.from())
    }

    fn update(&mut self, present: &Present) -> String {
        let key = self.table.key().to_vec();
        let (set, fixed) = self.settable(present, |at| !key.contains(&at));
        let wanted = key.iter().chain(&fixed).chain(&set);
        let source = self.source(Alias::U, wanted.map(|at| (Side::New, *at)));
        let conditions = key.iter().chain(&fixed).copied().zip(&source.values);
        let matched = self.matches(conditions);
        let values = source.values.get(key.len() + fixed.len()..).unwrap_or_default();
        self.update_from(&self.assignments(&set, values), &source.from(), &matched)
    }

    fn rekey(&mut self, present: &Present) -> String {
        let key = self.table.key().to_vec();
        let (set, fixed) = self.settable(present, |_| true);
        let fixed: Vec<usize> = fixed.into_iter().filter(|at| !key.contains(at)).collect();
        let old = key.iter().map(|at| (Side::Old, *at));
        let new = fixed.iter().chain(&set).map(|at| (Side::New, *at));
        let source = self.source(Alias::U, old.chain(new));
        let matched = self.matches(key.iter().chain(&fixed).copied().zip(&source.values));
        let values = source.values.get(key.len() + fixed.len()..).unwrap_or_default();
        self.update_from(&self.assignments(&set, values), &source.from(), &matched)
    }

    /// An update, or a mere look whether the row is there when nothing is set.
    fn update_from(&self, assignments: &str, from: &str, matched: &str) -> String {
        let (only, name) = (self.table.only, &self.table.name);
        if assignments.is_empty() {
            format!("SELECT FROM {only}{name} AS t, {from} WHERE {matched}")
        } else {
            format!("UPDATE {only}{name} AS t SET {assignments} FROM {from} WHERE {matched}")
        }
    }

    /// Columns that an update sets, and those that it may not name but must find as they are (P40).
    fn settable(&self, present: &Present, wanted: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<usize>) {
        let columns = self.table.columns.iter().enumerate();
        columns
            .filter(|(at, column)| wanted(*at) && present.contains(*at) && !column.is_generated)
            .map(|(at, _)| at)
            .partition(|at| !self.column(*at).is_identity_always)
    }

    fn assignments(&self, columns: &[usize], values: &[String]) -> String {
        let set = columns.iter().zip(values);
        let set: Vec<String> =
            set.map(|(at, value)| format!("{} = {value}", self.column(*at).name)).collect();
        set.join(", ")
    }

    fn matches<'v>(&self, pairs: impl Iterator<Item = (usize, &'v String)>) -> String {
        let condition = |(at, value): (usize, &String)| {
            let column = self.column(at);
            match &column.key_comparison {
                Comparison::Operator(equal) => format!("t.{} {equal} {value}", column.name),
                Comparison::Text => same_text(&format!("t.{}", column.name), value),
            }
        };
        pairs.map(condition).collect::<Vec<_>>().join(" AND ")
    }

    /// Adds parameters: the FROM item that holds their rows, and the expression for each.
    fn source(&mut self, alias: Alias, wanted: impl Iterator<Item = (Side, usize)>) -> Source {
        let (mut arrays, mut columns, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let letter = alias.name();
        let wanted: Vec<(Side, usize)> = wanted.collect();
        let goes_in_rows =
            |side| wanted.iter().any(|(of, at)| *of == side && (self.form)(side, *at) == Form::BinaryRow);
        let in_rows = [Side::Old, Side::New].map(|side| (side, goes_in_rows(side)));
        let mut rows = in_rows.map(|(side, _)| (side, Vec::new()));
        for (side, at) in wanted {
            let form = match (self.form)(side, at) {
                Form::BinaryArray if in_rows.contains(&(side, true)) => Form::BinaryRow,
                form => form,
            };
            if form == Form::BinaryRow {
                values.push(format!("{letter}.{}", self.field(side, at)));
                rows.iter_mut().filter(|(of, _)| *of == side).for_each(|(_, columns)| columns.push(at));
                continue;
            }
            self.parameters.push(Parameter::Column { side, column: at, form });
            let number = self.parameters.len();
            let type_name = &self.column(at).type_name;
            if form != Form::BinaryScalar {
                columns.push(format!("c{number}"));
            }
            match form {
                Form::TextArray => {
                    arrays.push(format!("${number}::pg_catalog.text::{type_name}[]"));
                    values.push(format!("{letter}.c{number}"));
                }
                Form::CastArray => {
                    arrays.push(format!("${number}::pg_catalog.text::pg_catalog.text[]"));
                    values.push(format!("{letter}.c{number}::{type_name}"));
                }
                Form::BinaryArray => {
                    arrays.push(format!("${number}::{type_name}[]"));
                    values.push(format!("{letter}.c{number}"));
                }
                Form::BinaryScalar => values.push(format!("${number}::{type_name}")),
                Form::BinaryRow => {}
            }
        }
        for (side, carried) in rows.into_iter().filter(|(_, carried)| !carried.is_empty()) {
            self.parameters.push(Parameter::Rows { side, columns: carried });
            arrays.push(format!("${}::{}[]", self.parameters.len(), self.table.name));
            columns.extend((0..self.table.record.len()).map(|field| side.field(field)));
        }
        Source { letter, arrays, columns, values }
    }

    /// Under what name a row of the table shows a column.
    fn field(&self, side: Side, at: usize) -> String {
        let field = self.table.record.iter().position(|field| field.column == Some(at));
        side.field(field.expect("a bound column is the target's"))
    }

    fn column(&self, at: usize) -> &'a BoundColumn {
        &self.table.columns[at]
    }
}

/// Parameters as a FROM item.
struct Source {
    letter: char,
    arrays: Vec<String>,
    columns: Vec<String>,
    /// What stands for each of the columns that were wanted.
    values: Vec<String>,
}

impl Source {
    fn from(&self) -> String {
        let Source { letter, arrays, columns, .. } = self;
        if arrays.is_empty() {
            return format!("(SELECT) AS {letter}");
        }
        // Unqualified: only so does it take several arrays, and pg_catalog is searched first anyway.
        format!("unnest({}) AS {letter}({})", arrays.join(", "), columns.join(", "))
    }

    /// With the rows' numbers as the last column.
    fn numbered_from(&self) -> String {
        let Source { letter, arrays, columns, .. } = self;
        format!("unnest({}) WITH ORDINALITY AS {letter}({})", arrays.join(", "), columns.join(", "))
    }
}

/// Whether two values of one type are written alike: for types without `=`, or with one that is too kind (P09).
///
/// `format('%L')` calls the type's own output function, as the source did, and tells NULL from every text.
fn same_text(left: &str, right: &str) -> String {
    format!(
        "pg_catalog.format('%L', {left}) COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) pg_catalog.format('%L', {right})"
    )
}

/// The columns that inserts write: all but generated ones (P39).
pub(super) fn written(table: &BoundTable) -> Vec<usize> {
    let columns = table.columns.iter().enumerate();
    columns.filter(|(_, column)| !column.is_generated).map(|(at, _)| at).collect()
}

/// Column names, quoted and joined.
pub(super) fn names(table: &BoundTable, columns: &[usize]) -> String {
    let columns = columns.iter().filter_map(|at| table.columns.get(*at));
    columns.map(|column| column.name.to_string()).collect::<Vec<_>>().join(", ")
}

/// The form for a column whose values came as text.
pub(super) fn text_form(column: &BoundColumn) -> Form {
    match column.carrier {
        Carrier::Array { .. } => Form::TextArray,
        Carrier::Cast => Form::CastArray,
    }
}

mod whole;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::{keyed, keyless, texts};
    use crate::pgoutput::Tuple;

    fn sql(table: &BoundTable, action: &Action, first: Option<&Tuple>) -> String {
        let form = |_, at: usize| text_form(&table.columns[at]);
        let rows: Vec<BatchRow> =
            first.iter().map(|old| BatchRow { old: Some((*old).clone()), new: None }).collect();
        Composer::new(table, form).compose(action, &rows).sql
    }

    #[test]
    fn equal_rows_are_found_by_a_join_that_can_be_hashed() {
        let old = texts(&[Some("1"), Some("∅"), Some("x")]);
        let sql = sql(&keyless(), &Action::DeleteRows, Some(&old));
        assert!(
            sql.contains(
                "$4::pg_catalog.int4[]) WITH ORDINALITY AS u(c1, c2, c3, wanted, image) JOIN ONLY \"s\".\"t\" AS s \
                 ON s.\"id\" OPERATOR(pg_catalog.=) u.c1 AND s.\"b\" OPERATOR(pg_catalog.=) u.c3 AND \
                 pg_catalog.format('%L', s.\"a\") COLLATE"
            ),
            "{sql}"
        );
    }

    #[test]
    fn an_update_sets_only_what_was_sent() {
        let present = Present::Only(vec![true, false, true]);
        assert_eq!(
            sql(&keyed(), &Action::Update(present), None),
            "UPDATE ONLY \"s\".\"t\" AS t SET \"b\" = u.c2 FROM unnest(\
             $1::pg_catalog.text::\"pg_catalog\".\"int4\"[], $2::pg_catalog.text::\"pg_catalog\".\"text\"[]) \
             AS u(c1, c2) WHERE t.\"id\" OPERATOR(pg_catalog.=) u.c1"
        );
    }

    #[test]
    fn an_update_that_sets_nothing_looks_whether_the_row_is_there() {
        let present = Present::Only(vec![true, false, false]);
        let sql = sql(&keyed(), &Action::Update(present), None);
        assert!(sql.starts_with("SELECT FROM ONLY \"s\".\"t\" AS t, unnest("), "{sql}");
    }

    #[test]
    fn one_of_several_equal_rows_is_taken_by_its_place() {
        let old = texts(&[Some("1"), Some("∅"), Some("x")]);
        let sql = sql(&keyless(), &Action::DeleteWhole, Some(&old));
        assert!(
            sql.starts_with("DELETE FROM ONLY \"s\".\"t\" AS t WHERE t.ctid = (SELECT s.ctid FROM ONLY"),
            "{sql}"
        );
        assert!(sql.contains("s.\"a\" IS NOT DISTINCT FROM NULL"), "{sql}");
        assert!(sql.ends_with("s.\"b\" OPERATOR(pg_catalog.=) o.c2 LIMIT 1)"), "{sql}");
    }

    #[test]
    fn a_fixed_identity_column_is_compared_and_not_set() {
        let mut table = std::sync::Arc::into_inner(keyed()).unwrap();
        table.columns[1].is_identity_always = true;
        let sql = sql(&table, &Action::Update(Present::All), None);
        assert!(sql.contains("SET \"b\" = u.c3 FROM"), "{sql}");
        assert!(sql.ends_with("AND t.\"a\" OPERATOR(pg_catalog.=) u.c2"), "{sql}");
    }
}
