//! Net changes of a table without a key: which rows there are fewer of, and which more.
//!
//! Such a table is a multiset of rows, and an update takes one row out and puts another in. So whatever happens to
//! its rows one after the other, what is left is a number of rows to remove and a number to add, told apart by
//! the bytes of all their values.
//!
//! Hazard: that holds only while both images are whole. An update whose new image lacks a value that its old one
//! does not give is [`Irregular`]; it is told by itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;

use super::change::{Op, fill, first_unchanged};
use super::compact::Irregular;
use crate::pgoutput::Tuple;

/// The rows of one table that a group adds and removes.
#[derive(Debug, Default)]
pub(super) struct NetRows {
    by_image: HashMap<Bytes, usize>,
    rows: Vec<(Tuple, i64)>,
}

impl NetRows {
    /// Takes a change in.
    ///
    /// # Errors
    /// [`Irregular`] if a value is not known; nothing is taken in then.
    pub(super) fn add(&mut self, op: &Op) -> Result<(), Irregular> {
        let (old, new) = match op {
            Op::Insert { new } => (None, Some(new.clone())),
            Op::Delete { old } | Op::DeleteWhole { old } => (Some(old), None),
            Op::UpdateWhole { old, new } | Op::Replace { old, new } => {
                (Some(old), Some(fill(new.clone(), old, |_| true)))
            }
            Op::Update { .. } | Op::Rekey { .. } => return Err(Irregular),
        };
        if old.into_iter().chain(&new).any(|tuple| first_unchanged(tuple).is_some()) {
            return Err(Irregular);
        }
        if let Some(old) = old {
            self.count(old, -1);
        }
        if let Some(new) = &new {
            self.count(new, 1);
        }
        Ok(())
    }

    fn count(&mut self, tuple: &Tuple, more: i64) {
        match self.by_image.entry(tuple.body().clone()) {
            Entry::Occupied(known) => self.rows[*known.get()].1 += more,
            Entry::Vacant(vacant) => {
                vacant.insert(self.rows.len());
                self.rows.push((tuple.clone(), more));
            }
        }
    }

    /// The rows to remove and those to add, equal ones side by side.
    pub(super) fn into_rows(self) -> (Vec<Tuple>, Vec<Tuple>) {
        let (mut fewer, mut more) = (Vec::new(), Vec::new());
        for (tuple, count) in self.rows {
            let rows = if count < 0 { &mut fewer } else { &mut more };
            let count = usize::try_from(count.unsigned_abs()).expect("a group's changes fit into memory");
            rows.extend(std::iter::repeat_n(tuple, count));
        }
        (fewer, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample::texts;

    fn row(a: &'static str, b: Option<&'static str>) -> Tuple {
        texts(&[Some("1"), Some(a), b])
    }

    fn update(old: Tuple, new: Tuple) -> Op {
        Op::UpdateWhole { old, new }
    }

    fn net(ops: impl IntoIterator<Item = Op>) -> (Vec<Tuple>, Vec<Tuple>) {
        let mut rows = NetRows::default();
        for op in ops {
            rows.add(&op).unwrap();
        }
        rows.into_rows()
    }

    #[test]
    fn a_chain_of_updates_is_its_two_ends() {
        let [a, b, c] = ["a", "b", "c"].map(|a| row(a, Some("x")));
        let steps = [update(a.clone(), b.clone()), update(b, c.clone())];
        assert_eq!(net(steps), (vec![a.clone()], vec![c.clone()]));
        let there_and_back = [update(a.clone(), c.clone()), update(c, a)];
        assert_eq!(net(there_and_back), (vec![], vec![]));
    }

    #[test]
    fn equal_rows_are_counted() {
        let [a, b] = ["a", "b"].map(|a| row(a, Some("x")));
        let delete = |old: &Tuple| Op::DeleteWhole { old: old.clone() };
        let steps = [
            delete(&a),
            delete(&b),
            delete(&a),
            Op::Insert { new: b.clone() },
            Op::Insert { new: b.clone() },
        ];
        assert_eq!(net(steps), (vec![a.clone(), a], vec![b]));
    }

    #[test]
    fn the_old_image_knows_what_did_not_change() {
        let (old, new) = (row("a", Some("long")), row("b", None));
        assert_eq!(net([update(old.clone(), new)]), (vec![old], vec![row("b", Some("long"))]));
    }

    #[test]
    fn a_value_that_nobody_knows_is_given_back() {
        let mut rows = NetRows::default();
        assert_eq!(rows.add(&update(row("a", None), row("b", None))), Err(Irregular));
        assert_eq!(rows.into_rows(), (vec![], vec![]));
    }
}
