//! A change as the target must be told it: old row identified, key filled in, key changes told apart.
//!
//! Hazard: an old key in the message does not mean that the key changed. The server sends it whenever the
//! key is TOASTed, and the key's columns are then "unchanged" in the new tuple; so they are filled in from
//! the old one, and only then are the two compared. Columns outside the key are NULL in an old key and mean
//! nothing (P42, P43).

use std::sync::Arc;

use super::event::RowEvent;
use super::key::KeyOf;
use super::table::{BoundTable, RowIdentity};
use crate::pg::Identifier;
use crate::pgoutput::{OldTuple, Tuple, Value};

/// What happens to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Insert {
        new: Tuple,
    },
    /// The key is in `new` and the same as before.
    Update {
        new: Tuple,
    },
    Delete {
        old: Tuple,
    },
    /// The key in `old` becomes that in `new`: always one UPDATE, as `new` may lack values (P43).
    Rekey {
        old: Tuple,
        new: Tuple,
    },
    /// A change that UPDATE may not make (P40): delete `old`, insert `new`, which lacks nothing.
    Replace {
        old: Tuple,
        new: Tuple,
    },
    /// One of the rows equal to `old`, of which there is no key.
    UpdateWhole {
        old: Tuple,
        new: Tuple,
    },
    DeleteWhole {
        old: Tuple,
    },
}

/// A row's change, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) table: Arc<BoundTable>,
    /// Which of the group's transactions.
    pub(super) transaction: u32,
    pub(super) op: Op,
}

/// Tables emptied by one statement (P41).
#[derive(Debug, Clone)]
pub(super) struct Truncation {
    pub(super) tables: Vec<Arc<BoundTable>>,
    pub(super) transaction: u32,
    pub(super) cascade: Cascade,
    pub(super) restart: Restart,
}

/// What becomes of tables that refer to the truncated ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cascade {
    /// They must not exist.
    Restrict,
    /// They are emptied too.
    Follow,
    /// The source emptied a table too that was copied later: a cascade would empty the copy. Rows are deleted.
    Withheld,
}

/// What becomes of the sequences that the truncated tables own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Continue,
    Restart,
}

/// One step of a group, in the source's order.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Row(Change),
    Truncate(Truncation),
}

impl Step {
    /// Which of the group's transactions it belongs to.
    pub(super) fn transaction(&self) -> u32 {
        match self {
            Step::Row(change) => change.transaction,
            Step::Truncate(truncation) => truncation.transaction,
        }
    }

    /// Its transaction's index when the group's list of transactions has changed.
    pub(super) fn set_transaction(&mut self, transaction: u32) {
        match self {
            Step::Row(change) => change.transaction = transaction,
            Step::Truncate(truncation) => truncation.transaction = transaction,
        }
    }

    /// Bytes of the source's values that it keeps.
    pub(super) fn bytes(&self) -> usize {
        let Step::Row(change) = self else { return 0 };
        match &change.op {
            Op::Insert { new: row }
            | Op::Update { new: row }
            | Op::Delete { old: row }
            | Op::DeleteWhole { old: row } => row.body().len(),
            Op::Rekey { old, new } | Op::Replace { old, new } | Op::UpdateWhole { old, new } => {
                old.body().len() + new.body().len()
            }
        }
    }
}

/// A change that no statement can make on the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unappliable {
    #[error("a row has {values} values where the table has {columns} columns")]
    Arity { values: usize, columns: usize },
    #[error("an inserted row lacks the value of column {column}")]
    Incomplete { column: Identifier },
    #[error("a row was changed, but the table has no replica identity that would tell which")]
    NoIdentity,
    #[error("the source did not send the old value of key column {column}")]
    Unidentified { column: Identifier },
    #[error("the value of column {column}, GENERATED ALWAYS AS IDENTITY, was changed")]
    FixedIdentity { column: Identifier },
}

impl Unappliable {
    /// What the operator can do.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Unappliable::Arity { .. } | Unappliable::Incomplete { .. } => {
                "The stream contradicts itself; report this, with the versions of both servers."
            }
            Unappliable::NoIdentity => {
                "Give the table a primary key or REPLICA IDENTITY FULL on the source, and copy it again."
            }
            Unappliable::Unidentified { .. } => {
                "Bring the source to its newest minor release, or set REPLICA IDENTITY FULL on the table."
            }
            Unappliable::FixedIdentity { .. } => {
                "Run ALTER TABLE … ALTER COLUMN … SET GENERATED BY DEFAULT on the target until the cutover."
            }
        }
    }
}

/// Reads what the source sent of a row's change.
///
/// # Errors
/// [`Unappliable`] for what cannot be expressed on the target; no guess is made.
pub(super) fn identify(table: &BoundTable, row: RowEvent) -> Result<Op, Unappliable> {
    match row {
        RowEvent::Insert { new } => {
            check_arity(table, &new)?;
            match first_unchanged(&new) {
                None => Ok(Op::Insert { new }),
                Some(at) => Err(Unappliable::Incomplete { column: name(table, at) }),
            }
        }
        RowEvent::Delete { old } => {
            check_arity(table, old.tuple())?;
            match (&table.identity, old) {
                (RowIdentity::Key(_), OldTuple::Key(old) | OldTuple::Full(old)) => Ok(Op::Delete { old }),
                (RowIdentity::WholeRow, OldTuple::Full(old)) => Ok(Op::DeleteWhole { old }),
                (RowIdentity::WholeRow, OldTuple::Key(_)) | (RowIdentity::None, _) => {
                    Err(Unappliable::NoIdentity)
                }
            }
        }
        RowEvent::Update { old, new } => {
            check_arity(table, &new)?;
            if let Some(old) = &old {
                check_arity(table, old.tuple())?;
            }
            match (&table.identity, old) {
                (RowIdentity::Key(key), old) => update_by_key(table, key, old, new),
                (RowIdentity::WholeRow, Some(OldTuple::Full(old))) => Ok(update_whole(table, old, new)),
                (RowIdentity::WholeRow, _) | (RowIdentity::None, _) => Err(Unappliable::NoIdentity),
            }
        }
    }
}

fn update_by_key(
    table: &BoundTable,
    key: &[usize],
    old: Option<OldTuple>,
    new: Tuple,
) -> Result<Op, Unappliable> {
    let new = match &old {
        Some(old) => fill(new, old.tuple(), |at| key.contains(&at)),
        None => new,
    };
    if let Some(at) = key.iter().find(|at| new.values().nth(**at) == Some(Value::Unchanged)) {
        return Err(Unappliable::Unidentified { column: name(table, *at) });
    }
    let Some(old) = old else {
        return Ok(Op::Update { new });
    };
    let fixed = changed_fixed_column(table, &old, &new);
    let same_key = KeyOf::new(old.tuple(), key) == KeyOf::new(&new, key);
    match (fixed, old) {
        (None, _) if same_key => Ok(Op::Update { new }),
        (None, OldTuple::Key(old) | OldTuple::Full(old)) => Ok(Op::Rekey { old, new }),
        (Some(_), OldTuple::Full(old)) => Ok(Op::Replace { new: fill(new, &old, |_| true), old }),
        (Some(_), OldTuple::Key(old)) if first_unchanged(&new).is_none() => Ok(Op::Replace { old, new }),
        (Some(at), OldTuple::Key(_)) => Err(Unappliable::FixedIdentity { column: name(table, at) }),
    }
}

fn update_whole(table: &BoundTable, old: Tuple, new: Tuple) -> Op {
    let images = OldTuple::Full(old);
    let fixed = changed_fixed_column(table, &images, &new);
    let (OldTuple::Full(old) | OldTuple::Key(old)) = images;
    match fixed {
        None => Op::UpdateWhole { old, new },
        Some(_) => Op::Replace { new: fill(new, &old, |_| true), old },
    }
}

/// A column that UPDATE may not name, whose value is known to have changed.
fn changed_fixed_column(table: &BoundTable, old: &OldTuple, new: &Tuple) -> Option<usize> {
    let known = |at: usize| match old {
        OldTuple::Full(_) => true,
        OldTuple::Key(_) => table.is_key(at),
    };
    let mut values = old.tuple().values().zip(new.values()).zip(&table.columns).enumerate();
    values.find_map(|(at, ((old, new), column))| {
        let changed = column.is_identity_always && known(at) && new != Value::Unchanged && old != new;
        changed.then_some(at)
    })
}

/// `new` with the unchanged values of some columns taken from `old`.
pub(super) fn fill(new: Tuple, old: &Tuple, wanted: impl Fn(usize) -> bool) -> Tuple {
    let lacks = |(at, value): (usize, Value<'_>)| value == Value::Unchanged && wanted(at);
    if !new.values().enumerate().any(lacks) {
        return new;
    }
    new.over(old, |at, value| lacks((at, value)))
}

/// The first column whose value was not sent.
pub(super) fn first_unchanged(tuple: &Tuple) -> Option<usize> {
    tuple.values().position(|value| value == Value::Unchanged)
}

fn check_arity(table: &BoundTable, tuple: &Tuple) -> Result<(), Unappliable> {
    let (values, columns) = (tuple.len(), table.columns.len());
    if values == columns { Ok(()) } else { Err(Unappliable::Arity { values, columns }) }
}

fn name(table: &BoundTable, column: usize) -> Identifier {
    table.columns[column].name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::{keyed, keyless, texts};

    fn update(old: Option<OldTuple>, new: Tuple) -> Result<Op, Unappliable> {
        identify(&keyed(), RowEvent::Update { old, new })
    }

    #[test]
    fn an_old_key_that_equals_the_new_one_is_no_key_change() {
        let old = OldTuple::Key(texts(&[Some("1"), Some("∅"), Some("∅")]));
        let op = update(Some(old), texts(&[None, Some("x"), None])).unwrap();
        assert_eq!(op, Op::Update { new: texts(&[Some("1"), Some("x"), None]) });
    }

    #[test]
    fn a_changed_key_keeps_both() {
        let old = texts(&[Some("1"), Some("∅"), Some("∅")]);
        let new = texts(&[Some("2"), Some("x"), None]);
        assert_eq!(update(Some(OldTuple::Key(old.clone())), new.clone()).unwrap(), Op::Rekey { old, new });
    }

    #[test]
    fn a_toasted_key_without_its_old_value_is_never_guessed() {
        let error = update(None, texts(&[None, Some("x"), Some("y")])).unwrap_err();
        assert!(matches!(error, Unappliable::Unidentified { column } if column.raw() == "id"));
    }

    #[test]
    fn a_row_without_a_key_needs_its_old_image() {
        let new = texts(&[Some("1"), Some("x"), Some("y")]);
        let event = RowEvent::Update { old: None, new: new.clone() };
        assert_eq!(identify(&keyless(), event), Err(Unappliable::NoIdentity));
        let old = texts(&[Some("1"), Some("a"), Some("y")]);
        let event = RowEvent::Update { old: Some(OldTuple::Full(old.clone())), new: new.clone() };
        assert_eq!(identify(&keyless(), event), Ok(Op::UpdateWhole { old, new }));
    }

    #[test]
    fn rows_of_another_width_are_refused() {
        let event = RowEvent::Insert { new: texts(&[Some("1")]) };
        assert_eq!(identify(&keyed(), event), Err(Unappliable::Arity { values: 1, columns: 3 }));
    }

    #[test]
    fn an_identity_column_that_changed_replaces_the_row() {
        let mut table = Arc::into_inner(keyed()).unwrap();
        table.columns[0].is_identity_always = true;
        let old = texts(&[Some("1"), Some("∅"), Some("∅")]);
        let whole = texts(&[Some("2"), Some("x"), Some("y")]);
        let event = RowEvent::Update { old: Some(OldTuple::Key(old.clone())), new: whole.clone() };
        assert_eq!(identify(&table, event), Ok(Op::Replace { old: old.clone(), new: whole }));
        let partial = texts(&[Some("2"), Some("x"), None]);
        let event = RowEvent::Update { old: Some(OldTuple::Key(old)), new: partial };
        assert!(matches!(identify(&table, event), Err(Unappliable::FixedIdentity { .. })));
    }
}
