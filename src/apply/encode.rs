//! Values of many rows, laid out as the target reads them: array literals, binary arrays, COPY lines.
//!
//! Hazard: `NULL` and `"NULL"`, `{}` and `"{}"` are different elements, so every text element is quoted;
//! and a backslash means something to the array's parser before the type's own input function sees it.
//! The bytes of a value are otherwise those that the source sent.

use bytes::{BufMut, Bytes, BytesMut};

use crate::pg::Oid;
use crate::pgoutput::Value;

/// A value in a format that its column's parameter is not made of, or one that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit;

/// An array literal: `{"a",NULL,"c"}` (docs: `arrays`, Array Input and Output Syntax).
#[derive(Debug)]
pub(super) struct TextArray {
    out: BytesMut,
    delimiter: u8,
}

impl TextArray {
    pub(super) fn new(delimiter: char) -> TextArray {
        // Delimiters are one byte in the catalog.
        TextArray { out: BytesMut::new(), delimiter: u8::try_from(delimiter).unwrap_or(b',') }
    }

    pub(super) fn push(&mut self, value: Value<'_>) -> Result<(), Misfit> {
        self.out.put_u8(if self.out.is_empty() { b'{' } else { self.delimiter });
        match value {
            Value::Null => self.out.put_slice(b"NULL"),
            Value::Text(text) => {
                self.out.put_u8(b'"');
                put_escaped(&mut self.out, text, |byte| matches!(byte, b'"' | b'\\').then_some(byte));
                self.out.put_u8(b'"');
            }
            Value::Unchanged | Value::Binary(_) => return Err(Misfit),
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Bytes {
        if self.out.is_empty() {
            self.out.put_u8(b'{');
        }
        self.out.put_u8(b'}');
        self.out.freeze()
    }
}

/// A one-dimensional array as `array_recv` reads it (server side: arrayfuncs.c).
#[derive(Debug)]
pub(super) struct BinaryArray {
    element: Oid,
    nulls: i32,
    count: i32,
    out: BytesMut,
}

impl BinaryArray {
    pub(super) fn new(element: Oid) -> BinaryArray {
        BinaryArray { element, nulls: 0, count: 0, out: BytesMut::new() }
    }

    /// An `int4[]`.
    pub(super) fn of_numbers(numbers: &[i32]) -> BinaryArray {
        let mut array = BinaryArray::new(Oid::new(23));
        for number in numbers {
            put_sized(&mut array.out, &number.to_be_bytes());
            array.count += 1;
        }
        array
    }

    pub(super) fn push(&mut self, value: Value<'_>) -> Result<(), Misfit> {
        match value {
            Value::Null => {
                self.nulls = 1;
                self.out.put_i32(-1);
            }
            Value::Binary(bytes) => put_sized(&mut self.out, bytes),
            Value::Unchanged | Value::Text(_) => return Err(Misfit),
        }
        self.count += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.out.len() + 20);
        put_array_header(&mut out, self.nulls, self.element, self.count);
        out.put_slice(&self.out);
        out.freeze()
    }
}

fn put_array_header(out: &mut BytesMut, nulls: i32, element: Oid, count: i32) {
    const DIMENSIONS: i32 = 1;
    const LOWER_BOUND: i32 = 1;
    for number in [DIMENSIONS, nulls] {
        out.put_i32(number);
    }
    out.put_u32(element.get());
    for number in [count, LOWER_BOUND] {
        out.put_i32(number);
    }
}

/// An array of rows of a table, as `array_recv` and `record_recv` read it (server side: rowtypes.c).
///
/// It is what carries arrays and composites many at a time: `unnest` spreads the row over columns, and leaves
/// what is in them whole.
#[derive(Debug)]
pub(super) struct RecordArray {
    fields: usize,
    count: i32,
    out: BytesMut,
}

impl RecordArray {
    /// `record`: a receiver of 14 or newer puts the row type that it expects in its place.
    const ELEMENT: Oid = Oid::new(2249);

    pub(super) fn new(fields: usize) -> RecordArray {
        RecordArray { fields, count: 0, out: BytesMut::new() }
    }

    /// Adds one row: each of the table's columns with its type.
    pub(super) fn push<'a>(&mut self, fields: impl Iterator<Item = (Oid, Value<'a>)>) -> Result<(), Misfit> {
        let start = self.out.len();
        self.out.put_i32(0);
        self.out.put_i32(i32::try_from(self.fields).map_err(|_| Misfit)?);
        for (of, value) in fields {
            self.out.put_u32(of.get());
            match value {
                Value::Null => self.out.put_i32(-1),
                Value::Binary(bytes) => put_sized(&mut self.out, bytes),
                Value::Unchanged | Value::Text(_) => return Err(Misfit),
            }
        }
        // A row of values that are sound one by one may be too long for the array.
        let length = i32::try_from(self.out.len() - start - 4).map_err(|_| Misfit)?;
        if let Some(slot) = self.out.get_mut(start..start + 4) {
            slot.copy_from_slice(&length.to_be_bytes());
        }
        self.count += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.out.len() + 20);
        put_array_header(&mut out, 0, Self::ELEMENT, self.count);
        out.put_slice(&self.out);
        out.freeze()
    }
}

/// Rows in COPY's text or binary format (docs: `sql-copy`, File Formats).
#[derive(Debug)]
pub(super) struct CopyRows {
    out: BytesMut,
    format: CopyFormat,
}

/// Which of COPY's formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyFormat {
    Text,
    Binary,
}

impl CopyRows {
    pub(super) fn new(format: CopyFormat) -> CopyRows {
        let mut out = BytesMut::new();
        if format == CopyFormat::Binary {
            out.put_slice(b"PGCOPY\n\xff\r\n\0");
            out.put_u64(0); // No flags, no header extension.
        }
        CopyRows { out, format }
    }

    /// Adds one row of `columns` values.
    pub(super) fn push<'a>(
        &mut self,
        columns: usize,
        values: impl Iterator<Item = Value<'a>>,
    ) -> Result<(), Misfit> {
        match self.format {
            CopyFormat::Text => self.push_text(values),
            CopyFormat::Binary => self.push_binary(columns, values),
        }
    }

    fn push_text<'a>(&mut self, values: impl Iterator<Item = Value<'a>>) -> Result<(), Misfit> {
        for (at, value) in values.enumerate() {
            if at > 0 {
                self.out.put_u8(b'\t');
            }
            match value {
                Value::Null => self.out.put_slice(b"\\N"),
                Value::Text(text) => put_escaped(&mut self.out, text, |byte| match byte {
                    b'\\' => Some(b'\\'),
                    b'\n' => Some(b'n'),
                    b'\r' => Some(b'r'),
                    b'\t' => Some(b't'),
                    _ => None,
                }),
                Value::Unchanged | Value::Binary(_) => return Err(Misfit),
            }
        }
        self.out.put_u8(b'\n');
        Ok(())
    }

    fn push_binary<'a>(
        &mut self,
        columns: usize,
        values: impl Iterator<Item = Value<'a>>,
    ) -> Result<(), Misfit> {
        self.out.put_u16(u16::try_from(columns).map_err(|_| Misfit)?);
        for value in values {
            match value {
                Value::Null => self.out.put_i32(-1),
                Value::Binary(bytes) => put_sized(&mut self.out, bytes),
                Value::Unchanged | Value::Text(_) => return Err(Misfit),
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Bytes {
        if self.format == CopyFormat::Binary {
            self.out.put_i16(-1);
        }
        self.out.freeze()
    }
}

fn put_sized(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(i32::try_from(bytes.len()).expect("a value is at most 1 GB"));
    out.put_slice(bytes);
}

/// Copies `text`, writing a backslash and what `escape` says in place of the bytes it names.
fn put_escaped(out: &mut BytesMut, text: &[u8], escape: impl Fn(u8) -> Option<u8>) {
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate() {
        if let Some(letter) = escape(*byte) {
            out.put_slice(text.get(plain..at).unwrap_or_default());
            out.put_slice(&[b'\\', letter]);
            plain = at + 1;
        }
    }
    out.put_slice(text.get(plain..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_quoted_and_null_is_not() {
        let mut array = TextArray::new(',');
        for value in [Value::Text(b"NULL"), Value::Null, Value::Text(b""), Value::Text(br#"{"a\b"}"#)] {
            array.push(value).unwrap();
        }
        assert_eq!(array.finish(), br#"{"NULL",NULL,"","{\"a\\b\"}"}"#.as_slice());
        let mut boxes = TextArray::new(';');
        boxes.push(Value::Text(b"(1,1),(0,0)")).unwrap();
        boxes.push(Value::Null).unwrap();
        assert_eq!(boxes.finish(), br#"{"(1,1),(0,0)";NULL}"#.as_slice());
    }

    #[test]
    fn what_was_not_sent_is_never_written() {
        assert_eq!(TextArray::new(',').push(Value::Unchanged), Err(Misfit));
        assert_eq!(BinaryArray::new(Oid::new(23)).push(Value::Unchanged), Err(Misfit));
        for format in [CopyFormat::Text, CopyFormat::Binary] {
            assert_eq!(CopyRows::new(format).push(1, [Value::Unchanged].into_iter()), Err(Misfit));
        }
    }

    #[test]
    fn a_binary_array_has_its_header() {
        let mut array = BinaryArray::new(Oid::new(23));
        array.push(Value::Binary(&[0, 0, 0, 7])).unwrap();
        array.push(Value::Null).unwrap();
        #[rustfmt::skip]
        let expected: &[u8] = &[
            0, 0, 0, 1,  0, 0, 0, 1,  0, 0, 0, 23,  0, 0, 0, 2,  0, 0, 0, 1, // dimensions, nulls, type, length, lower bound
            0, 0, 0, 4,  0, 0, 0, 7,  255, 255, 255, 255,                    // 7, NULL
        ];
        assert_eq!(array.finish(), expected);
    }

    #[test]
    fn a_record_has_its_length_and_the_types_of_its_fields() {
        let mut rows = RecordArray::new(2);
        let fields = [(Oid::new(23), Value::Binary(&[0, 0, 0, 7])), (Oid::new(25), Value::Null)];
        rows.push(fields.into_iter()).unwrap();
        assert_eq!(rows.push([(Oid::new(25), Value::Text(b"x"))].into_iter()), Err(Misfit));
        let made = rows.finish();
        #[rustfmt::skip]
        let expected: &[u8] = &[
            0, 0, 0, 1,  0, 0, 0, 0,  0, 0, 8, 201,  0, 0, 0, 1,  0, 0, 0, 1, // dimensions, nulls, type, length, lower bound
            0, 0, 0, 24,  0, 0, 0, 2,                                         // bytes, fields
            0, 0, 0, 23,  0, 0, 0, 4,  0, 0, 0, 7,                            // int4 7
            0, 0, 0, 25,  255, 255, 255, 255,                                 // text NULL
        ];
        assert_eq!(made.get(..expected.len()), Some(expected));
    }

    #[test]
    fn copy_lines_escape_what_would_end_them() {
        let mut rows = CopyRows::new(CopyFormat::Text);
        let values = [Value::Text(b"a\tb\\.\r\n"), Value::Null, Value::Text(b"\\N")];
        rows.push(3, values.into_iter()).unwrap();
        assert_eq!(rows.finish(), b"a\\tb\\\\.\\r\\n\t\\N\t\\\\N\n".as_slice());
    }
}
