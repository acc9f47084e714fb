//! Cuts a server's byte stream into frames: a tag byte, an `i32` length that counts itself, a body.
//!
//! Hazard: the length comes from the peer. A wrong one must neither panic nor make us reserve a gigabyte,
//! and a peer that does not speak PostgreSQL at all ("HTTP/1.1 400…") must be told from one that does.
//! Reads end anywhere, so the bytes of an unfinished frame stay here, in the struct, between reads.
//! (docs: `protocol-message-formats`)

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a tag and a length.
pub(super) const HEADER_BYTES: usize = 5;

/// The longest frame a server can send: its buffers end at 1 GiB; the rest is slack for headers.
pub const FRAME_BYTES_MAX: usize = (1 << 30) + 1024;

/// The longest frame we believe before the login is done; libpq draws the same line at 30 000.
pub const LOGIN_FRAME_BYTES_MAX: usize = 64 << 10;

/// How much one read may bring.
const READ_BYTES: usize = 128 << 10;

/// One message as it came: its type and its body, header removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message type.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

/// A length that no server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length does not even cover itself.
    #[error("frame of type {:?} claims a length of {length}", char::from(*tag))]
    TooShort {
        /// The message type.
        tag: u8,
        /// The length as sent.
        length: i32,
    },
    /// The length is past what we accept.
    #[error("frame of type {:?} claims {length} bytes, more than the {limit} allowed here", char::from(*tag))]
    TooLong {
        /// The message type.
        tag: u8,
        /// The length as sent.
        length: i32,
        /// The longest accepted.
        limit: usize,
    },
}

/// The first five bytes of a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tag: u8,
    pub(super) body_bytes: usize,
}

impl Header {
    /// Checks the five bytes of a header.
    pub(super) fn check(bytes: [u8; HEADER_BYTES], limit: usize) -> Result<Header, FrameError> {
        let [tag, a, b, c, d] = bytes;
        let length = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(length) {
            Ok(counted) if counted > limit => Err(FrameError::TooLong { tag, length, limit }),
            Ok(counted) if counted >= 4 => Ok(Header { tag, body_bytes: counted - 4 }),
            _ => Err(FrameError::TooShort { tag, length }),
        }
    }

    fn peek(bytes: &[u8], limit: usize) -> Result<Option<Header>, FrameError> {
        match bytes.first_chunk() {
            Some(header) => Header::check(*header, limit).map(Some),
            None => Ok(None),
        }
    }
}

/// Bytes received and not yet handed on.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    limit: usize,
}

impl FrameBuffer {
    /// An empty buffer that accepts frames of up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> FrameBuffer {
        FrameBuffer { bytes: BytesMut::new(), limit }
    }

    /// The next whole frame; `None` when more bytes are needed. Its body shares the memory of the read.
    ///
    /// # Errors
    /// A length that cannot be; the stream is unusable from here on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = Header::peek(&self.bytes, self.limit)? else { return Ok(None) };
        if self.bytes.len() < HEADER_BYTES + header.body_bytes {
            return Ok(None);
        }
        self.bytes.advance(HEADER_BYTES);
        let body = self.bytes.split_to(header.body_bytes).freeze();
        Ok(Some(Frame { tag: header.tag, body }))
    }

    /// Where the next read goes; never without room.
    ///
    /// Room for a long frame is made as its bytes arrive, by doubling: a claim alone costs nothing.
    pub fn space(&mut self) -> &mut BytesMut {
        let awaited = match Header::peek(&self.bytes, self.limit) {
            Ok(Some(header)) => (HEADER_BYTES + header.body_bytes).saturating_sub(self.bytes.len()),
            Ok(None) | Err(_) => 0,
        };
        let room = self.bytes.capacity() - self.bytes.len();
        if room < awaited.clamp(READ_BYTES / 4, READ_BYTES) {
            self.bytes.reserve(awaited.min(self.bytes.len()).max(READ_BYTES));
        }
        &mut self.bytes
    }

    /// Accepts frames of up to `limit` bytes from here on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The bytes held, for one who cuts frames himself.
    pub(super) fn raw(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, body) in frames {
            bytes.push(*tag);
            bytes.extend_from_slice(&i32::try_from(body.len() + 4).unwrap().to_be_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    fn drain(buffer: &mut FrameBuffer, into: &mut Vec<(u8, Vec<u8>)>) -> Result<(), FrameError> {
        while let Some(frame) = buffer.next_frame()? {
            into.push((frame.tag, frame.body.to_vec()));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            chunks in prop::collection::vec(1usize..30, 1..50),
        ) {
            let bytes = encode(&frames);
            let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
            let mut seen = Vec::new();
            let mut rest = bytes.as_slice();
            for size in chunks.iter().cycle() {
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                buffer.space().extend_from_slice(chunk);
                drain(&mut buffer, &mut seen).unwrap();
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
            buffer.space().extend_from_slice(&bytes);
            let _ = drain(&mut buffer, &mut Vec::new());
            prop_assert!(buffer.space().capacity() <= bytes.len() + 2 * READ_BYTES);
        }
    }

    #[test]
    fn rejects_a_length_that_does_not_cover_itself() {
        let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
        buffer.space().extend_from_slice(b"Z\0\0\0\x03");
        assert_eq!(buffer.next_frame(), Err(FrameError::TooShort { tag: b'Z', length: 3 }));
    }

    #[test]
    fn rejects_a_web_server() {
        let mut buffer = FrameBuffer::new(LOGIN_FRAME_BYTES_MAX);
        buffer.space().extend_from_slice(b"HTTP/1.1 400 Bad Request");
        assert!(matches!(buffer.next_frame(), Err(FrameError::TooLong { tag: b'H', .. })));
    }
}
