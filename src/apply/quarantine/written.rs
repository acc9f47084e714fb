//! A parked change as the target keeps it, and back: rows are JSON objects of the columns' text forms.
//!
//! Hazard: a column that was not sent is absent, which is neither NULL nor an empty text. And equal keys must have
//! equal texts, whatever the order of their columns: they are sorted by name.

use std::collections::{BTreeMap, BTreeSet};

use crate::apply::change::{Change, Op, fill};
use crate::apply::table::BoundTable;
use crate::catalog::Table;
use crate::pg::RelationId;
use crate::pgoutput::{Relation, RelationColumn, ReplicaIdentity, Tuple, Value};

/// A row's key, by column; of a table without a key the whole row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RowKey {
    pub(super) columns: Vec<String>,
    pub(super) text: String,
}

/// A value is not known, or no text in UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unwritten;

/// A parked change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) kind: String,
    /// Of the source's table, in its order.
    pub(super) columns: Vec<String>,
    /// JSON; of a table with a key that alone.
    pub(super) old: Option<String>,
    /// JSON.
    pub(super) new: Option<String>,
}

type Values<T> = BTreeMap<T, Option<T>>;

/// The keys that a change has to do with, the old one first.
pub(super) fn keys(change: &Change) -> Result<Vec<RowKey>, Unwritten> {
    let table = &change.table;
    match &change.op {
        Op::Insert { new: row }
        | Op::Update { new: row }
        | Op::Delete { old: row }
        | Op::DeleteWhole { old: row } => Ok(vec![key(table, row)?]),
        Op::Rekey { old, new } | Op::Replace { old, new } | Op::UpdateWhole { old, new } => {
            let whole = is_whole(table).then(|| fill(new.clone(), old, |_| true));
            Ok(vec![key(table, old)?, key(table, whole.as_ref().unwrap_or(new))?])
        }
    }
}

fn key(table: &BoundTable, tuple: &Tuple) -> Result<RowKey, Unwritten> {
    let wanted = |at: usize| is_whole(table) || table.is_key(at);
    let values = values(table, tuple, wanted)?;
    let columns = table.columns.iter().enumerate();
    let all = columns.filter(|(at, column)| !column.is_generated && wanted(*at)).count();
    if values.len() != all {
        return Err(Unwritten);
    }
    let columns = values.keys().map(|name| (*name).to_owned()).collect();
    Ok(RowKey { columns, text: serde_json::to_string(&values).map_err(|_| Unwritten)? })
}

fn is_whole(table: &BoundTable) -> bool {
    table.key().is_empty()
}

/// Writes a change down.
pub(super) fn written(change: &Change) -> Result<Written, Unwritten> {
    let table = &change.table;
    let old = |row| json(table, row, |at| is_whole(table) || table.is_key(at)).map(Some);
    let new = |row| json(table, row, |_| true).map(Some);
    let (kind, old, new) = match &change.op {
        Op::Insert { new: row } => ("insert", None, new(row)?),
        Op::Update { new: row } => ("update", None, new(row)?),
        Op::Delete { old: row } | Op::DeleteWhole { old: row } => ("delete", old(row)?, None),
        Op::Rekey { old: before, new: after } => ("update key", old(before)?, new(after)?),
        Op::UpdateWhole { old: before, new: after } => ("update", old(before)?, new(after)?),
        Op::Replace { old: before, new: after } => ("replace", old(before)?, new(after)?),
    };
    let kind = if is_whole(table) { format!("{kind} whole") } else { kind.to_owned() };
    let columns = table.columns.iter().filter(|column| !column.is_generated);
    let columns = columns.map(|column| column.name.raw().to_owned()).collect();
    Ok(Written { kind, columns, old, new })
}

fn json(table: &BoundTable, tuple: &Tuple, wanted: impl Fn(usize) -> bool) -> Result<String, Unwritten> {
    serde_json::to_string(&values(table, tuple, wanted)?).map_err(|_| Unwritten)
}

/// The wanted columns, without those that were not sent.
fn values<'t>(
    table: &'t BoundTable,
    tuple: &'t Tuple,
    wanted: impl Fn(usize) -> bool,
) -> Result<Values<&'t str>, Unwritten> {
    let mut values = BTreeMap::new();
    for (at, (value, column)) in tuple.values().zip(&table.columns).enumerate() {
        if column.is_generated || !wanted(at) {
            continue;
        }
        let text = match value {
            Value::Unchanged => continue,
            Value::Null => None,
            Value::Text(text) => Some(std::str::from_utf8(text).map_err(|_| Unwritten)?),
            Value::Binary(_) => return Err(Unwritten),
        };
        values.insert(column.name.raw(), text);
    }
    Ok(values)
}

/// What was written makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a parked change is not as it was written")]
pub(super) struct Unreadable;

/// The names of a key's columns, in order.
pub(super) fn columns_of(key: &str) -> Result<Vec<String>, Unreadable> {
    Ok(parse(key)?.into_keys().collect())
}

fn parse(json: &str) -> Result<Values<String>, Unreadable> {
    serde_json::from_str(json).map_err(|_| Unreadable)
}

impl Written {
    /// The change again, for a table that has just these columns.
    pub(super) fn op(&self) -> Result<Op, Unreadable> {
        let (kind, is_whole) =
            self.kind.strip_suffix(" whole").map_or((&*self.kind, false), |kind| (kind, true));
        // Beside an old key there is nothing; beside what was sent of a new row is what did not change.
        let old = || self.tuple(self.old.as_deref(), Value::Null);
        let new = || self.tuple(self.new.as_deref(), Value::Unchanged);
        Ok(match (kind, is_whole) {
            ("insert", _) => Op::Insert { new: new()? },
            ("update", false) => Op::Update { new: new()? },
            ("update", true) => Op::UpdateWhole { old: old()?, new: new()? },
            ("update key", false) => Op::Rekey { old: old()?, new: new()? },
            ("replace", _) => Op::Replace { old: old()?, new: new()? },
            ("delete", false) => Op::Delete { old: old()? },
            ("delete", true) => Op::DeleteWhole { old: old()? },
            (_, _) => return Err(Unreadable),
        })
    }

    fn tuple(&self, json: Option<&str>, absent: Value<'_>) -> Result<Tuple, Unreadable> {
        let values = parse(json.ok_or(Unreadable)?)?;
        let value = |column: &String| match values.get(column) {
            Some(Some(text)) => Value::Text(text.as_bytes()),
            Some(None) => Value::Null,
            None => absent,
        };
        Tuple::of(self.columns.iter().map(value)).map_err(|_| Unreadable)
    }

    /// The source's table as it was then, with the types that `target` has for it; `key` is its key's columns.
    pub(super) fn relation(&self, target: &Table, key: &[String]) -> Relation {
        let key: BTreeSet<&String> = match self.kind.ends_with(" whole") {
            true => BTreeSet::new(),
            false => key.iter().collect(),
        };
        let column = |name: &String| {
            let twin = target.column(name);
            RelationColumn {
                is_key: key.contains(name),
                name: name.clone(),
                type_oid: twin.map_or(crate::pg::Oid::new(0), |twin| twin.type_oid),
                type_modifier: twin.map_or(-1, |twin| twin.type_modifier),
            }
        };
        Relation {
            xid: None,
            id: RelationId::new(0),
            namespace: target.name.schema.raw().to_owned(),
            name: target.name.name.raw().to_owned(),
            replica_identity: if key.is_empty() { ReplicaIdentity::Full } else { ReplicaIdentity::Index },
            columns: self.columns.iter().map(column).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::apply::sample::{keyed, keyless, texts};

    fn change(table: &Arc<BoundTable>, op: Op) -> Change {
        Change { table: Arc::clone(table), transaction: 0, op }
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let row = || texts(&[Some("1"), Some("a"), Some("it's \"so\"")]);
        let lacking = || texts(&[Some("2"), Some("∅"), None]);
        for op in [
            Op::Insert { new: row() },
            Op::Update { new: lacking() },
            Op::Rekey { old: texts(&[Some("1"), Some("∅"), Some("∅")]), new: lacking() },
            Op::Delete { old: texts(&[Some("1"), Some("∅"), Some("∅")]) },
        ] {
            assert_eq!(written(&change(&keyed(), op.clone())).unwrap().op(), Ok(op));
        }
        for op in [
            Op::UpdateWhole { old: row(), new: lacking() },
            Op::DeleteWhole { old: row() },
            Op::Replace { old: row(), new: row() },
        ] {
            assert_eq!(written(&change(&keyless(), op.clone())).unwrap().op(), Ok(op));
        }
    }

    #[test]
    fn a_key_is_what_finds_the_row_and_without_one_the_whole_row() {
        let row = || texts(&[Some("1"), Some("a"), Some("∅")]);
        let text = |op| keys(&change(&keyed(), op)).unwrap().pop().unwrap().text;
        assert_eq!(
            text(Op::Insert { new: row() }),
            text(Op::Update { new: texts(&[Some("1"), None, None]) })
        );
        let whole = keys(&change(&keyless(), Op::DeleteWhole { old: row() })).unwrap();
        assert_eq!(whole[0].columns.len(), 3);
        let update = Op::UpdateWhole { old: row(), new: texts(&[Some("2"), None, None]) };
        let [_, new] = <[RowKey; 2]>::try_from(keys(&change(&keyless(), update)).unwrap()).unwrap();
        let filled = keys(&change(&keyless(), Op::Insert { new: texts(&[Some("2"), Some("a"), Some("∅")]) }));
        assert_eq!(new, filled.unwrap().pop().unwrap());
    }

    #[test]
    fn what_is_no_text_is_not_written() {
        let binary = [Value::Binary(b"\0\0\0\x01"), Value::Null, Value::Null].into_iter().collect();
        assert_eq!(keys(&change(&keyed(), Op::Insert { new: binary })), Err(Unwritten));
    }
}
