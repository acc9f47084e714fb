//! Reads the fields of a message's body, in order.
//!
//! Hazard: counts and lengths come from the peer. Every read is checked against what is there, and says which
//! field it was reading, and where.

use bytes::{Buf, Bytes};

/// A message that does not hold what its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body is over before the field is.
    #[error("{message} ends inside {field} at byte {offset}")]
    Truncated {
        /// The message.
        message: &'static str,
        /// The field being read.
        field: &'static str,
        /// Where in the body.
        offset: usize,
    },
    /// The field holds a value that cannot be.
    #[error("{message} holds an impossible {field} before byte {offset}")]
    Impossible {
        /// The message.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// Where in the body.
        offset: usize,
    },
    /// A type that the simple protocol does not have.
    #[error("unknown message type {:?}", char::from(*tag))]
    UnknownType {
        /// The type.
        tag: u8,
    },
}

/// Reads fields off the front of a body.
pub(super) struct Reader {
    message: &'static str,
    length: usize,
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(message: &'static str, body: Bytes) -> Reader {
        Reader { message, length: body.len(), rest: body }
    }

    /// Whether nothing is left but, perhaps, the zero byte that ends a list.
    pub(super) fn is_at_end_of_list(&self) -> bool {
        matches!(self.rest.first(), None | Some(0))
    }

    /// What has not been read.
    pub(super) fn into_rest(self) -> Bytes {
        self.rest
    }

    fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    pub(super) fn impossible(&self, field: &'static str) -> MessageError {
        MessageError::Impossible { message: self.message, field, offset: self.offset() }
    }

    fn truncated(&self, field: &'static str) -> MessageError {
        MessageError::Truncated { message: self.message, field, offset: self.offset() }
    }

    pub(super) fn take(&mut self, count: usize, field: &'static str) -> Result<Bytes, MessageError> {
        if count > self.rest.len() {
            return Err(self.truncated(field));
        }
        Ok(self.rest.split_to(count))
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], MessageError> {
        let found = self.rest.first_chunk().copied().ok_or_else(|| self.truncated(field))?;
        self.rest.advance(N);
        Ok(found)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, MessageError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, MessageError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, MessageError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<String, MessageError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.truncated(field))?;
        let text = String::from_utf8_lossy(&self.rest.split_to(end)).into_owned();
        self.rest.advance(1);
        Ok(text)
    }
}
