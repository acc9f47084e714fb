//! One version of a row, as a slice of the message that brought it.
//!
//! Hazard: NULL, "unchanged" and an empty text are three different things, and in the key of an old row
//! NULL means "not sent". The values stay as the source wrote them until they are written to the target.

use std::fmt;
use std::iter::FusedIterator;

use bytes::{BufMut, Bytes, BytesMut};

use super::error::DecodeError;
use super::reader::Reader;

/// One value of a tuple, borrowed from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL. In an `OldTuple::Key`, columns outside the key are sent so and mean nothing.
    Null,
    /// A TOASTed value that did not change and was not sent (P42). Never to be written.
    Unchanged,
    /// The type's text form.
    Text(&'a [u8]),
    /// The type's binary form (`binary 'true'`, 14+).
    Binary(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes, if any were sent.
    #[must_use]
    pub const fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Null | Value::Unchanged => None,
            Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
        }
    }
}

/// A row version: one slice of the message, checked when it was decoded.
///
/// Cloning it clones no values. It keeps the buffer alive that the message arrived in.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    body: Bytes,
}

impl Tuple {
    /// Takes what the reader has already checked.
    pub(super) fn checked(columns: u16, body: Bytes) -> Tuple {
        Tuple { columns, body }
    }

    /// The column count as it travels.
    #[must_use]
    pub fn columns(&self) -> u16 {
        self.columns
    }

    /// A tuple from its raw parts, as [`Tuple::columns`] and [`Tuple::body`] gave them away.
    ///
    /// # Errors
    /// Any [`DecodeError`] of a tuple if `body` does not hold exactly `columns` values.
    pub fn from_raw(columns: u16, body: Bytes) -> Result<Tuple, DecodeError> {
        let mut reader = Reader::of_tuple(&body);
        reader.skip_values(columns)?;
        reader.finish()?;
        Ok(Tuple { columns, body })
    }

    /// Lays values out as they travel.
    ///
    /// # Errors
    /// [`TooLarge`] beyond 16 bits of columns or 31 of bytes in a value.
    pub fn of<'a>(values: impl IntoIterator<Item = Value<'a>>) -> Result<Tuple, TooLarge> {
        let mut columns = 0_u16;
        let mut body = BytesMut::new();
        for value in values {
            columns = columns.checked_add(1).ok_or(TooLarge)?;
            match value {
                Value::Null => body.put_u8(b'n'),
                Value::Unchanged => body.put_u8(b'u'),
                Value::Text(bytes) => put_sized(&mut body, b't', bytes)?,
                Value::Binary(bytes) => put_sized(&mut body, b'b', bytes)?,
            }
        }
        Ok(Tuple { columns, body: body.freeze() })
    }

    /// This row with `below` seen through it where `through` says so, by column and value of this one; as wide as the
    /// narrower of the two.
    #[must_use]
    pub fn over(&self, below: &Tuple, through: impl Fn(usize, Value<'_>) -> bool) -> Tuple {
        let mut body = BytesMut::with_capacity(self.body.len());
        let (mut own, mut other) = (self.values(), below.values());
        let mut at = 0;
        while let (Some((value, bytes)), Some((_, beneath))) = (own.next_laid_out(), other.next_laid_out()) {
            body.put_slice(if through(at, value) { beneath } else { bytes });
            at += 1;
        }
        Tuple { columns: self.columns.min(below.columns), body: body.freeze() }
    }

    /// How many columns it has.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether it has no column at all, as a row of a table without columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The values as they travelled: a kind byte each, then for text and binary a length and the bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The values, in the order of the relation's columns.
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        Values { left: self.columns, rest: &self.body }
    }
}

impl<'a> IntoIterator for &'a Tuple {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.values()
    }
}

/// More columns, or a longer value, than a message can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row is larger than a message can hold")]
pub struct TooLarge;

fn put_sized(body: &mut BytesMut, kind: u8, bytes: &[u8]) -> Result<(), TooLarge> {
    body.put_u8(kind);
    body.put_i32(i32::try_from(bytes.len()).map_err(|_| TooLarge)?);
    body.put_slice(bytes);
    Ok(())
}

/// Shows text as text; for tests and failed assertions, not for logs, which hold no column values.
impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for value in self {
            match value {
                Value::Null => list.entry(&format_args!("null")),
                Value::Unchanged => list.entry(&format_args!("unchanged")),
                Value::Text(bytes) => list.entry(&String::from_utf8_lossy(bytes)),
                Value::Binary(bytes) => list.entry(&bytes),
            };
        }
        list.finish()
    }
}

/// Walks the values of a [`Tuple`].
#[derive(Debug, Clone)]
pub struct Values<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Values<'a> {
    /// `None` only past the end: a tuple's structure was checked when it was made.
    #[inline]
    fn step(&mut self) -> Option<Value<'a>> {
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        match kind {
            b'n' => Some(Value::Null),
            b'u' => Some(Value::Unchanged),
            b't' => self.sized().map(Value::Text),
            b'b' => self.sized().map(Value::Binary),
            _ => None,
        }
    }

    /// The next value, and the bytes that it is laid out in.
    fn next_laid_out(&mut self) -> Option<(Value<'a>, &'a [u8])> {
        let all = self.rest;
        let value = self.next()?;
        Some((value, all.get(..all.len() - self.rest.len())?))
    }

    #[inline]
    fn sized(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        self.rest = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let value = self.step();
        debug_assert!(value.is_some(), "a tuple is checked when it is made");
        value
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}
impl FusedIterator for Values<'_> {}

/// What the source sends of the old row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTuple {
    /// The identity's columns only (`K`).
    Key(Tuple),
    /// Every column (`O`, identity FULL).
    Full(Tuple),
}

impl OldTuple {
    /// The values, whichever of them were sent.
    #[must_use]
    pub fn tuple(&self) -> &Tuple {
        match self {
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_is_seen_through_another() {
        let above =
            Tuple::of([Value::Text(b"new"), Value::Unchanged, Value::Null, Value::Unchanged]).unwrap();
        let below =
            Tuple::of([Value::Null, Value::Binary(b"\0\x01"), Value::Text(b"old"), Value::Null]).unwrap();
        let both = above.over(&below, |at, value| value == Value::Unchanged && at < 3);
        let expected = [Value::Text(b"new"), Value::Binary(b"\0\x01"), Value::Null, Value::Unchanged];
        assert_eq!(both, Tuple::of(expected).unwrap());
        let narrow = Tuple::of([Value::Null]).unwrap();
        assert_eq!(above.over(&narrow, |_, _| false), Tuple::of([Value::Text(b"new")]).unwrap());
    }

    #[test]
    fn more_columns_than_a_message_counts_are_refused() {
        let most = usize::from(u16::MAX);
        assert_eq!(Tuple::of(vec![Value::Null; most]).unwrap().len(), most);
        assert_eq!(Tuple::of(vec![Value::Null; most + 1]), Err(TooLarge));
    }

    const ALL: [Value<'_>; 5] =
        [Value::Null, Value::Unchanged, Value::Text(b""), Value::Text(b"a\0b"), Value::Binary(&[0, 0, 0, 7])];

    #[test]
    fn gives_back_the_values_it_was_made_of() {
        let tuple: Tuple = ALL.into_iter().collect();
        assert_eq!((tuple.len(), tuple.values().len()), (5, 5));
        assert_eq!(tuple.values().collect::<Vec<_>>(), ALL);
    }

    #[test]
    fn raw_parts_make_the_same_tuple() {
        let tuple: Tuple = ALL.into_iter().collect();
        assert_eq!(Tuple::from_raw(5, tuple.body().clone()), Ok(tuple));
    }

    #[test]
    fn raw_parts_are_checked() {
        let body: Bytes = ALL.into_iter().collect::<Tuple>().body().clone();
        let trailing = DecodeError::Trailing { tag: 'N', offset: body.len() - 9 };
        assert_eq!(Tuple::from_raw(4, body.clone()), Err(trailing));
        let truncated = DecodeError::Truncated { tag: 'N', field: "value kind", offset: body.len() };
        assert_eq!(Tuple::from_raw(6, body), Err(truncated));
        let negative = Bytes::from_static(&[b't', 0xFF, 0xFF, 0xFF, 0xFF]);
        let meaningless = DecodeError::Meaningless { tag: 'N', field: "value", offset: 1, value: -1 };
        assert_eq!(Tuple::from_raw(1, negative), Err(meaningless));
    }
}
