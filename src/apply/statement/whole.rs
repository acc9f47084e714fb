//! Rows found by all their values: in tables without a key, of which the source sends whole old images (P09).
//!
//! Hazard: several rows may be equal, and exactly as many of them must go as were sent; and a type's `=` may hold
//! different values equal, or not exist, where one stored value is meant. So rows are taken by their place, and
//! compared by `=` only where equal values have equal bytes, else by their text.

use super::{Alias, BatchRow, Comparison, Composer, Form, Parameter, Present, Side, same_text, written};
use crate::apply::table::BoundTable;
use crate::pgoutput::{Tuple, Value};

impl<F: Fn(Side, usize) -> Form> Composer<'_, F> {
    pub(super) fn delete_whole(&mut self, old: Option<&Tuple>) -> String {
        let (row, found) = self.find_whole(old);
        let (only, name) = (self.table.only, &self.table.name);
        format!("DELETE FROM {only}{name} AS t WHERE {row} = {found}")
    }

    pub(super) fn update_whole(&mut self, present: &Present, old: Option<&Tuple>) -> String {
        let (set, _) = self.settable(present, |_| true);
        let (row, found) = self.find_whole(old);
        let source = self.source(Alias::U, set.iter().map(|at| (Side::New, *at)));
        let assignments = self.assignments(&set, &source.values);
        self.update_from(&assignments, &source.from(), &format!("{row} = {found}"))
    }

    /// Removes by their places as many of the rows equal to each image as are wanted.
    ///
    /// Equal rows are found by a join that can be hashed, so that the table is read once for the whole batch:
    /// columns whose `=` means the value that was meant are compared by it, the others, also those that are NULL
    /// somewhere, by the text of all of them together. Among equal rows, which of them go is all the same.
    pub(super) fn delete_rows(&mut self, rows: &[BatchRow]) -> String {
        let table = self.table;
        let compared = written(table);
        let mut source = self.source(Alias::U, compared.iter().map(|at| (Side::Old, *at)));
        self.parameters.push(Parameter::Counts);
        source.arrays.push(format!("${}::pg_catalog.int4[]", self.parameters.len()));
        source.columns.extend(["wanted".to_owned(), "image".to_owned()]);
        let may_be_null = null_somewhere(table, rows);
        let pairs = || compared.iter().copied().zip(&source.values);
        let by_operator = |at: usize| match &self.column(at).key_comparison {
            Comparison::Operator(equal) if self.column(at).is_canonical && !may_be_null[at] => Some(equal),
            Comparison::Operator(_) | Comparison::Text => None,
        };
        let mut conditions: Vec<String> = pairs()
            .filter_map(|(at, value)| {
                Some(format!("s.{} {} {value}", self.column(at).name, by_operator(at)?))
            })
            .collect();
        let by_text: Vec<(String, &String)> = pairs()
            .filter(|(at, _)| by_operator(*at).is_none())
            .map(|(at, value)| (format!("s.{}", self.column(at).name), value))
            .collect();
        conditions.extend(by_text.chunks(TEXTS_MAX).map(same_texts));
        let conditions = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
        let (only, name, from) = (table.only, &table.name, source.numbered_from());
        let same_table =
            if only.is_empty() { " AND t.tableoid OPERATOR(pg_catalog.=) f.relation" } else { "" };
        format!(
            "DELETE FROM {only}{name} AS t USING (SELECT s.tableoid AS relation, s.ctid AS place, u.wanted, \
             pg_catalog.row_number() OVER (PARTITION BY u.image) AS number FROM {from} JOIN {only}{name} AS s \
             ON {conditions}) AS f WHERE f.number OPERATOR(pg_catalog.<=) f.wanted \
             AND t.ctid OPERATOR(pg_catalog.=) f.place{same_table}"
        )
    }

    /// The physical place of one row equal to the old image: what it is compared with, and the look-up.
    ///
    /// The look-up does not depend on the outer row, so the server runs it once and goes to the place at once.
    fn find_whole(&mut self, old: Option<&Tuple>) -> (&'static str, String) {
        let table = self.table;
        let compared: Vec<(usize, bool)> = old
            .into_iter()
            .flat_map(Tuple::values)
            .zip(&table.columns)
            .enumerate()
            .filter(|(_, (value, column))| *value != Value::Unchanged && !column.is_generated)
            .map(|(at, (value, _))| (at, value == Value::Null))
            .collect();
        let valued = compared.iter().filter(|(_, is_null)| !is_null).map(|(at, _)| (Side::Old, *at));
        let source = self.source(Alias::O, valued);
        let mut values = source.values.iter();
        let conditions: Vec<String> = compared
            .iter()
            .filter_map(|(at, is_null)| {
                let column = table.columns.get(*at)?;
                let name = &column.name;
                Some(match (is_null, &column.key_comparison) {
                    // Unlike IS NULL, this is not true of a composite value whose fields are all NULL.
                    (true, _) => format!("s.{name} IS NOT DISTINCT FROM NULL"),
                    (false, Comparison::Operator(equal)) if column.is_canonical => {
                        format!("s.{name} {equal} {}", values.next()?)
                    }
                    (false, Comparison::Operator(_) | Comparison::Text) => {
                        same_text(&format!("s.{name}"), values.next()?)
                    }
                })
            })
            .collect();
        let conditions = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
        let (only, name, from) = (table.only, &table.name, source.from());
        let row = if only.is_empty() {
            ("(t.tableoid, t.ctid)", "s.tableoid, s.ctid")
        } else {
            ("t.ctid", "s.ctid")
        };
        let found = format!("(SELECT {} FROM {only}{name} AS s, {from} WHERE {conditions} LIMIT 1)", row.1);
        (row.0, found)
    }
}

/// Arguments of one `format`: the server takes a hundred.
const TEXTS_MAX: usize = 90;

/// Which columns are NULL in one of the old images.
fn null_somewhere(table: &BoundTable, rows: &[BatchRow]) -> Vec<bool> {
    let mut nulls = vec![false; table.columns.len()];
    for old in rows.iter().filter_map(|row| row.old.as_ref()) {
        for (is_null, value) in nulls.iter_mut().zip(old.values()) {
            *is_null |= value == Value::Null;
        }
    }
    nulls
}

/// The same of several values at once: quoted, so that they do not run into each other.
fn same_texts(pairs: &[(String, &String)]) -> String {
    let left: Vec<&str> = pairs.iter().map(|(left, _)| left.as_str()).collect();
    let right: Vec<&str> = pairs.iter().map(|(_, right)| right.as_str()).collect();
    let letters = vec!["%L"; pairs.len()].join(",");
    let text = |values: Vec<&str>| format!("pg_catalog.format('{letters}', {})", values.join(", "));
    format!("{} COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) {}", text(left), text(right))
}
