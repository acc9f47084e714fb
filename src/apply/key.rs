//! Keys of rows, compared by their bytes; and the types whose equal values have equal bytes.
//!
//! Hazard: equality on the server is often wider than that: numeric 1.0 and 1.00, citext, collations that
//! ignore case, -0 and 0, '1 day' and '24 hours' (P09). Where exactly one stored value is meant, `=` serves
//! only the types of [`is_canonical`].

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::catalog::{Column, TypeKind};
use crate::pgoutput::{Tuple, Value};

/// The values of some columns of a row, compared and hashed where they lie: by their bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyOf<'a> {
    tuple: &'a Tuple,
    columns: &'a [usize],
}

impl<'a> KeyOf<'a> {
    /// The columns numbered in `columns`, which are in ascending order.
    pub(super) fn new(tuple: &'a Tuple, columns: &'a [usize]) -> KeyOf<'a> {
        KeyOf { tuple, columns }
    }

    /// Its first bytes as a number that grows roughly as the rows stand in the key's index: exactly for binary numbers
    /// that are not negative and for short texts in the order of their bytes.
    pub(super) fn place(self) -> u128 {
        let bytes = self.values().filter_map(Value::bytes).flatten();
        bytes
            .zip((0..128).step_by(8).rev())
            .fold(0, |place, (byte, shift)| place | u128::from(*byte) << shift)
    }

    fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut wanted = self.columns.iter().copied().peekable();
        let last = self.columns.last().map_or(0, |last| last + 1);
        let values = self.tuple.values().take(last).enumerate();
        values.filter_map(move |(at, value)| wanted.next_if_eq(&at).map(|_| value))
    }
}

impl PartialEq for KeyOf<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.values().eq(other.values())
    }
}

impl Hash for KeyOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in self.values() {
            std::mem::discriminant(&value).hash(state);
            value.bytes().hash(state);
        }
    }
}

/// Finds rows by their keys; the keys stay in the rows.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    hasher: DefaultHashBuilder,
    /// A key's hash, and which row has it.
    places: HashTable<(u64, usize)>,
}

impl KeyIndex {
    /// The row with that key; if there is none, `next` has it from now on.
    pub(super) fn find_or_insert<'a>(
        &mut self,
        key: KeyOf<'_>,
        next: usize,
        key_of: impl Fn(usize) -> KeyOf<'a>,
    ) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        match self.places.entry(hash, |(other, at)| *other == hash && key_of(*at) == key, |(hash, _)| *hash) {
            Entry::Occupied(known) => Some(known.get().1),
            Entry::Vacant(vacant) => {
                vacant.insert((hash, next));
                None
            }
        }
    }
}

/// The values of some columns of a row, as bytes that are equal exactly when the values' bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KeyBytes(Vec<u8>);

impl KeyBytes {
    /// Takes the columns numbered in `columns`, which are in ascending order.
    pub(super) fn of(tuple: &Tuple, columns: &[usize]) -> KeyBytes {
        let mut bytes = Vec::with_capacity(16 * columns.len());
        let mut wanted = columns.iter().copied().peekable();
        for (at, value) in tuple.values().enumerate() {
            match wanted.peek() {
                None => break,
                Some(next) if *next != at => continue,
                Some(_) => wanted.next(),
            };
            let (kind, value): (u8, &[u8]) = match value {
                Value::Null => (b'n', b""),
                Value::Unchanged => (b'u', b""),
                Value::Text(bytes) => (b't', bytes),
                Value::Binary(bytes) => (b'b', bytes),
            };
            bytes.push(kind);
            bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        KeyBytes(bytes)
    }
}

/// Built-in types of which each value has exactly one text and one binary form, under pinned settings (P59).
const CANONICAL: &[&str] = &[
    "bool",
    "bytea",
    "char",
    "cid",
    "date",
    "int2",
    "int4",
    "int8",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "oid",
    "pg_lsn",
    "text",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "uuid",
    "varchar",
    "xid",
    "xid8",
    "bit",
    "varbit",
];

/// Whether equal values of the column always have equal bytes, and the other way round.
///
/// `is_loose` tells of a collation that holds different texts equal. Domains count as what the catalog's
/// `type_name` says, a name that is not in the list: they are left out.
pub(super) fn is_canonical(column: &Column, is_loose: bool) -> bool {
    match column.type_kind {
        TypeKind::Enum => true,
        TypeKind::Base => {
            let name = column.type_name.name.raw();
            // A bpchar of fixed length is padded on output; one without has trailing blanks that do not count.
            let fixed = name == "bpchar" && column.type_modifier > 0;
            column.type_name.schema.raw() == "pg_catalog" && !is_loose && (fixed || CANONICAL.contains(&name))
        }
        TypeKind::Array
        | TypeKind::Composite
        | TypeKind::Domain
        | TypeKind::Range
        | TypeKind::Multirange
        | TypeKind::Pseudo => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(values: &[Value<'_>]) -> Tuple {
        values.iter().copied().collect()
    }

    #[test]
    fn rows_are_found_by_their_keys() {
        let rows = [
            tuple(&[Value::Text(b"ab"), Value::Text(b"c"), Value::Null]),
            tuple(&[Value::Text(b"a"), Value::Text(b"bc"), Value::Null]),
            tuple(&[Value::Text(b"a"), Value::Null, Value::Text(b"c")]),
            tuple(&[Value::Text(b"a"), Value::Binary(b"bc"), Value::Null]),
        ];
        let mut index = KeyIndex::default();
        let key = |at: usize| KeyOf::new(&rows[at], &[0, 1]);
        for at in 0..rows.len() {
            assert_eq!(index.find_or_insert(key(at), at, key), None);
        }
        let again = tuple(&[Value::Text(b"a"), Value::Text(b"bc"), Value::Text(b"else")]);
        assert_eq!(index.find_or_insert(KeyOf::new(&again, &[0, 1]), 9, key), Some(1));
    }

    #[test]
    fn keys_do_not_run_into_each_other() {
        let one = tuple(&[Value::Text(b"ab"), Value::Text(b"c")]);
        let other = tuple(&[Value::Text(b"a"), Value::Text(b"bc")]);
        assert!(KeyOf::new(&one, &[0, 1]) != KeyOf::new(&other, &[0, 1]));
        assert_ne!(KeyBytes::of(&one, &[0, 1]), KeyBytes::of(&other, &[0, 1]));
    }

    #[test]
    fn rows_have_their_place_by_the_first_bytes_of_their_keys() {
        let place = |values: &[Value<'_>]| KeyOf::new(&tuple(values), &[1, 2]).place();
        let number = |first: i64, second: &'static [u8]| {
            place(&[Value::Text(b"z"), Value::Binary(&first.to_be_bytes()), Value::Text(second)])
        };
        let ascending = [
            number(0, b""),
            number(1, b"b"),
            number(256, b"a"),
            number(256, b"b"),
            number(256, b"bc"),
            number(i64::MAX, b"a"),
        ];
        assert!(ascending.is_sorted_by(|one, other| one < other), "{ascending:x?}");
        assert_eq!(number(7, b"12345678"), number(7, b"123456789"), "no more than sixteen");
        assert_eq!(place(&[Value::Text(b"z"), Value::Null, Value::Unchanged]), 0);
    }

    #[test]
    fn a_key_is_its_columns_and_nothing_else() {
        let one = tuple(&[Value::Text(b"x"), Value::Text(b"1"), Value::Null]);
        let other = tuple(&[Value::Text(b"y"), Value::Text(b"1"), Value::Text(b"")]);
        assert_eq!(KeyBytes::of(&one, &[1]), KeyBytes::of(&other, &[1]));
        assert_ne!(KeyBytes::of(&one, &[1, 2]), KeyBytes::of(&other, &[1, 2]));
    }
}
