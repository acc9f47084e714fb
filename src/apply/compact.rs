//! Net changes of one table: what is left of many changes of the same row.
//!
//! | | then I | then U | then D |
//! |---|---|---|---|
//! | *nothing* | insert | update | delete |
//! | insert | – | insert merged | nothing |
//! | update | – | update merged | delete |
//! | delete | replace | – | – |
//! | replace | – | replace merged | delete |
//!
//! Hazard: "–" cannot happen to one row. If the stream says so, [`NetChanges::add`] refuses, the order is
//! kept as it came, and the target has the last word.
//!
//! Rows are told apart by the bytes of their keys, although equal keys may be spelled in several ways
//! (numeric 1.0 and 1.00, citext, -0; P09). That is safe, because one row has one spelling until its key is
//! updated, which ends the collection: of all spellings of a key, one at most has a row before the group,
//! which is updated or deleted, and one at most has a row after it, which is inserted after all deletes.
//!
//! *Replace* is a delete and an insert, not an UPDATE: all deletes run before all inserts, so rows that
//! hand their unique values on to each other do not collide.

use super::change::{Op, first_unchanged};
use super::key::{KeyIndex, KeyOf};
use crate::pgoutput::{Tuple, Value};

/// What a row comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Net {
    /// Inserted and deleted again.
    Nothing,
    Insert {
        new: Tuple,
    },
    /// Values that are `Unchanged` in `new` stay as they are on the target.
    Update {
        new: Tuple,
    },
    Delete {
        old: Tuple,
    },
    Replace {
        old: Tuple,
        new: Tuple,
    },
}

/// The rows of one table that a group changes, each once.
#[derive(Debug, Default)]
pub(super) struct NetChanges {
    by_key: KeyIndex,
    /// What has the row's key, and what the row comes to.
    rows: Vec<(Tuple, Net)>,
}

/// A change after which a row cannot be told by its key alone, or that contradicts what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Irregular;

impl NetChanges {
    /// Merges a change with what its row went through before.
    ///
    /// # Errors
    /// [`Irregular`] for a change of the key, a whole-row change, or a contradiction; nothing is merged then.
    pub(super) fn add(&mut self, key: &[usize], op: &Op) -> Result<(), Irregular> {
        let (tuple, first) = match op {
            Op::Insert { new } => (new, Net::Insert { new: new.clone() }),
            Op::Update { new } => (new, Net::Update { new: new.clone() }),
            Op::Delete { old } => (old, Net::Delete { old: old.clone() }),
            Op::Rekey { .. } | Op::Replace { .. } | Op::UpdateWhole { .. } | Op::DeleteWhole { .. } => {
                return Err(Irregular);
            }
        };
        let key_of = |at: usize| KeyOf::new(&self.rows[at].0, key);
        match self.by_key.find_or_insert(KeyOf::new(tuple, key), self.rows.len(), key_of) {
            None => self.rows.push((tuple.clone(), first)),
            Some(at) => {
                let (_, net) = &mut self.rows[at];
                *net = follow(net, op).ok_or(Irregular)?;
            }
        }
        Ok(())
    }

    /// The rows, in the order in which they were first changed.
    pub(super) fn into_rows(self) -> impl Iterator<Item = Net> {
        self.rows.into_iter().map(|(_, net)| net)
    }
}

/// The table above, for a row that the group has already changed.
fn follow(before: &Net, op: &Op) -> Option<Net> {
    match (before, op) {
        (Net::Nothing, Op::Insert { new }) => Some(Net::Insert { new: new.clone() }),
        (Net::Insert { new: before }, Op::Update { new }) => Some(Net::Insert { new: merge(before, new) }),
        (Net::Insert { .. }, Op::Delete { .. }) => Some(Net::Nothing),
        (Net::Update { new: before }, Op::Update { new }) => Some(Net::Update { new: merge(before, new) }),
        (Net::Update { .. }, Op::Delete { old }) => Some(Net::Delete { old: old.clone() }),
        (Net::Delete { old }, Op::Insert { new }) => {
            Some(Net::Replace { old: old.clone(), new: new.clone() })
        }
        (Net::Replace { old, new: before }, Op::Update { new }) => {
            Some(Net::Replace { old: old.clone(), new: merge(before, new) })
        }
        (Net::Replace { .. }, Op::Delete { old }) => Some(Net::Delete { old: old.clone() }),
        (Net::Nothing, _) | (Net::Insert { .. }, _) | (Net::Update { .. }, _) => None,
        (Net::Delete { .. }, _) | (Net::Replace { .. }, _) => None,
    }
}

/// `new`, with what it leaves unchanged taken from `before` (P42).
fn merge(before: &Tuple, new: &Tuple) -> Tuple {
    if first_unchanged(new).is_none() {
        return new.clone();
    }
    new.over(before, |_, value| value == Value::Unchanged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::texts;

    fn row(a: Option<&'static str>, b: Option<&'static str>) -> Tuple {
        texts(&[Some("1"), a, b])
    }

    fn insert(a: &'static str, b: &'static str) -> Op {
        Op::Insert { new: row(Some(a), Some(b)) }
    }

    fn update(a: Option<&'static str>, b: Option<&'static str>) -> Op {
        Op::Update { new: row(a, b) }
    }

    fn delete() -> Op {
        Op::Delete { old: row(Some("∅"), Some("∅")) }
    }

    fn net(ops: impl IntoIterator<Item = Op>) -> Net {
        let mut changes = NetChanges::default();
        for op in ops {
            changes.add(&[0], &op).unwrap();
        }
        let [net] = <[Net; 1]>::try_from(changes.into_rows().collect::<Vec<_>>()).unwrap();
        net
    }

    #[test]
    fn an_inserted_row_takes_its_updates_along() {
        let merged = net([insert("a", "long"), update(Some("b"), None)]);
        assert_eq!(merged, Net::Insert { new: row(Some("b"), Some("long")) });
    }

    #[test]
    fn unchanged_values_are_merged_over_several_updates() {
        let merged = net([update(Some("a"), Some("long")), update(Some("b"), None)]);
        assert_eq!(merged, Net::Update { new: row(Some("b"), Some("long")) });
        let masked = net([update(Some("a"), None), update(Some("b"), None)]);
        assert_eq!(masked, Net::Update { new: row(Some("b"), None) });
    }

    #[test]
    fn what_was_inserted_and_deleted_was_never_there() {
        assert_eq!(net([insert("a", "b"), delete()]), Net::Nothing);
        assert_eq!(net([insert("a", "b"), delete(), insert("c", "d")]), net([insert("c", "d")]));
    }

    #[test]
    fn a_deleted_row_that_comes_back_is_replaced() {
        let replaced = net([delete(), insert("a", "b"), update(Some("c"), None)]);
        let old = row(Some("∅"), Some("∅"));
        assert_eq!(replaced, Net::Replace { old: old.clone(), new: row(Some("c"), Some("b")) });
        let gone = net([update(Some("x"), None), delete(), insert("a", "b"), delete()]);
        assert_eq!(gone, Net::Delete { old });
    }

    #[test]
    fn what_cannot_happen_to_one_row_is_given_back() {
        let mut changes = NetChanges::default();
        changes.add(&[0], &insert("a", "b")).unwrap();
        assert_eq!(changes.add(&[0], &insert("c", "d")), Err(Irregular));
        changes.add(&[0], &delete()).unwrap();
        assert_eq!(changes.add(&[0], &delete()), Err(Irregular));
        assert_eq!(changes.into_rows().collect::<Vec<_>>(), [Net::Nothing]);
    }
}
