//! A cursor over one message that cannot leave it.
//!
//! Hazard: every length and count here was written by the other side. Nothing is indexed and nothing is
//! allocated on the word of a length: what is not there is [`DecodeError::Truncated`].

use std::ops::Range;

use super::decode::Block;
use super::error::DecodeError;
use crate::pg::{Lsn, PgTimestamp, Xid};

/// Reads fields in order; each read names its field, for the error.
pub(super) struct Reader<'m> {
    tag: char,
    length: usize,
    rest: &'m [u8],
}

/// Where a checked tuple lies in its message.
pub(super) struct TupleSpan {
    pub(super) columns: u16,
    pub(super) bytes: Range<usize>,
}

impl<'m> Reader<'m> {
    /// Starts after the message's first byte.
    #[inline]
    pub(super) fn new(message: &'m [u8]) -> Result<Reader<'m>, DecodeError> {
        let (tag, rest) = message.split_first().ok_or(DecodeError::Empty)?;
        Ok(Reader { tag: char::from(*tag), length: message.len(), rest })
    }

    /// Starts at the first value of a tuple that stands alone.
    pub(super) fn of_tuple(body: &'m [u8]) -> Reader<'m> {
        Reader { tag: 'N', length: body.len(), rest: body }
    }

    /// The next byte's offset in the message.
    #[inline]
    pub(super) fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    /// Bytes not yet read.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Refuses bytes after the last field.
    #[inline]
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { tag: self.tag, offset: self.offset() })
        }
    }

    #[inline]
    fn chunk<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((chunk, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.truncated(field));
        };
        self.rest = rest;
        Ok(*chunk)
    }

    /// One byte.
    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.chunk(field).map(u8::from_be_bytes)
    }

    /// Two bytes, big-endian like all numbers here.
    #[inline]
    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.chunk(field).map(u16::from_be_bytes)
    }

    /// Four bytes.
    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.chunk(field).map(u32::from_be_bytes)
    }

    /// Four bytes, signed.
    #[inline]
    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.chunk(field).map(i32::from_be_bytes)
    }

    /// Eight bytes: a WAL position.
    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.chunk(field).map(|bytes| Lsn::new(u64::from_be_bytes(bytes)))
    }

    /// Eight bytes: microseconds since 2000.
    pub(super) fn timestamp(&mut self, field: &'static str) -> Result<PgTimestamp, DecodeError> {
        self.chunk(field).map(|bytes| PgTimestamp::from_micros(i64::from_be_bytes(bytes)))
    }

    /// The xid that stands first in a change inside a streamed block, and only there.
    #[inline]
    pub(super) fn xid_in(&mut self, block: Block) -> Result<Option<Xid>, DecodeError> {
        match block {
            Block::Outside => Ok(None),
            Block::Streaming { .. } => self.u32("xid").map(|xid| Some(Xid::new(xid))),
        }
    }

    /// One byte whose bits other than `known` must be zero.
    pub(super) fn flags(&mut self, field: &'static str, known: u8) -> Result<u8, DecodeError> {
        let flags = self.u8(field)?;
        if flags & !known == 0 { Ok(flags) } else { Err(self.meaningless(field, 1, i64::from(flags))) }
    }

    /// Bytes up to a NUL, without it.
    pub(super) fn c_bytes(&mut self, field: &'static str) -> Result<&'m [u8], DecodeError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.truncated(field))?;
        let (bytes, rest) = self.rest.split_at_checked(end).ok_or_else(|| self.truncated(field))?;
        self.rest = rest.get(1..).ok_or_else(|| self.truncated(field))?;
        Ok(bytes)
    }

    /// A NUL-terminated name.
    pub(super) fn name(&mut self, field: &'static str) -> Result<&'m str, DecodeError> {
        let offset = self.offset();
        std::str::from_utf8(self.c_bytes(field)?).map_err(|_| DecodeError::NotUtf8 {
            tag: self.tag,
            field,
            offset,
        })
    }

    /// A schema's name; `pg_catalog` travels as an empty string.
    pub(super) fn namespace(&mut self) -> Result<String, DecodeError> {
        match self.name("namespace")? {
            "" => Ok(super::encode::PG_CATALOG.to_owned()),
            name => Ok(name.to_owned()),
        }
    }

    /// A length and as many bytes.
    #[inline]
    pub(super) fn sized(&mut self, field: &'static str) -> Result<&'m [u8], DecodeError> {
        let announced = self.i32(field)?;
        let Ok(length) = usize::try_from(announced) else {
            return Err(self.meaningless(field, 4, i64::from(announced)));
        };
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.truncated(field));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// A tuple: a column count and as many values.
    #[inline]
    pub(super) fn tuple(&mut self) -> Result<TupleSpan, DecodeError> {
        let columns = self.u16("column count")?;
        let start = self.offset();
        self.skip_values(columns)?;
        Ok(TupleSpan { columns, bytes: start..self.offset() })
    }

    /// Checks that `columns` well-formed values follow, and passes them.
    #[inline]
    pub(super) fn skip_values(&mut self, columns: u16) -> Result<(), DecodeError> {
        for _ in 0..columns {
            match self.u8("value kind")? {
                b'n' | b'u' => {}
                b't' | b'b' => {
                    self.sized("value")?;
                }
                kind => return Err(self.meaningless("value kind", 1, i64::from(kind))),
            }
        }
        Ok(())
    }

    /// The field that begins here is not all there.
    #[cold]
    fn truncated(&self, field: &'static str) -> DecodeError {
        DecodeError::Truncated { tag: self.tag, field, offset: self.offset() }
    }

    /// The field of `size` bytes just read has no meaning.
    #[cold]
    pub(super) fn meaningless(&self, field: &'static str, size: usize, value: i64) -> DecodeError {
        let offset = self.offset().saturating_sub(size);
        DecodeError::Meaningless { tag: self.tag, field, offset, value }
    }
}
