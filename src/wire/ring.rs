//! The bytes under way between two COPYs: a ring that knows where frames end. No socket here.
//!
//! Hazard: what is handed on must not end inside a frame, or a failing source leaves the target waiting for
//! the rest of a row and no word can be got in. So a frame is held until it is whole, unless it is a good
//! part of the ring: a row may be a gigabyte, and passes in pieces.
//!
//! CopyData has the same bytes in both directions, so frames pass unopened; only headers are looked at.
//!
//! ```text
//!        written          passable            received
//! ──────────┼─────────────────┼───────────────────┼──────────▶ position in the stream
//!           │ whole CopyData  │ part of one, or   │   free, up to written + capacity
//!           │ for the target  │ another message   │
//! ```

use bytes::BytesMut;

use crate::wire::frame::{FRAME_BYTES_MAX, FrameError, HEADER_BYTES, Header};

const COPY_DATA: u8 = b'd';

/// A ring buffer. Always `written <= passable <= received <= written + capacity`.
pub(super) struct Ring {
    bytes: Box<[u8]>,
    written: u64,
    passable: u64,
    received: u64,
    payload: u64,
    walk: Walk,
}

/// What the next received byte is.
enum Walk {
    /// Part of a header, of which these bytes are known.
    Header { known: [u8; HEADER_BYTES], count: usize },
    /// Part of a CopyData, of which this many bytes are missing.
    Body { missing: usize, passing: Passing },
    /// After the header of a message for us, which begins at `passable`.
    Other,
}

/// How a frame is handed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passing {
    Whole,
    InPieces,
}

const AT_FRAME_START: Walk = Walk::Header { known: [0; HEADER_BYTES], count: 0 };

impl Ring {
    /// A ring of `capacity` bytes. Frames beyond half of it pass in pieces.
    pub(super) fn new(capacity: usize) -> Ring {
        let bytes = vec![0; capacity].into_boxed_slice();
        Ring { bytes, written: 0, passable: 0, received: 0, payload: 0, walk: AT_FRAME_START }
    }

    /// Where the next bytes of the source go: the longest run that is free. Empty while a message for us waits.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let free = match self.walk {
            Walk::Other => 0,
            Walk::Header { .. } | Walk::Body { .. } => self.bytes.len() - self.held(),
        };
        let start = self.index(self.received);
        let end = self.bytes.len().min(start + free);
        self.bytes.get_mut(start..end).unwrap_or_default()
    }

    /// Takes note of `count` bytes put into [`Ring::space`].
    pub(super) fn filled(&mut self, count: usize) -> Result<(), FrameError> {
        let start = self.index(self.received);
        let end = self.bytes.len().min(start + count);
        let mut at = start;
        while at < end {
            let fresh = self.bytes.get(at..end).unwrap_or_default();
            match &mut self.walk {
                Walk::Other => break,
                Walk::Header { known, count } => {
                    let take = fresh.len().min(HEADER_BYTES - *count);
                    for (slot, byte) in known.iter_mut().skip(*count).zip(fresh) {
                        *slot = *byte;
                    }
                    *count += take;
                    at += take;
                    if *count == HEADER_BYTES {
                        let header = Header::check(*known, FRAME_BYTES_MAX)?;
                        self.enter(header, self.received + (at - start) as u64);
                    }
                }
                Walk::Body { missing, passing } => {
                    let take = fresh.len().min(*missing);
                    *missing -= take;
                    at += take;
                    if *missing == 0 || *passing == Passing::InPieces {
                        self.passable = self.received + (at - start) as u64;
                    }
                    if *missing == 0 {
                        self.walk = AT_FRAME_START;
                    }
                }
            }
        }
        self.received += (end - start) as u64;
        debug_assert!(self.written <= self.passable && self.passable <= self.received);
        Ok(())
    }

    /// A header is complete; its body begins at `position`.
    fn enter(&mut self, header: Header, position: u64) {
        if header.tag != COPY_DATA {
            self.walk = Walk::Other;
            return;
        }
        self.payload += header.body_bytes as u64;
        let large = HEADER_BYTES + header.body_bytes > self.bytes.len() / 2;
        self.walk = match (header.body_bytes, large) {
            (0, _) => AT_FRAME_START,
            (missing, false) => Walk::Body { missing, passing: Passing::Whole },
            (missing, true) => Walk::Body { missing, passing: Passing::InPieces },
        };
        if header.body_bytes == 0 || large {
            self.passable = position;
        }
    }

    /// The next bytes for the target.
    pub(super) fn ready(&self) -> &[u8] {
        let start = self.index(self.written);
        let end = self.bytes.len().min(start + (self.passable - self.written) as usize);
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// Takes note that the target has taken `count` bytes of [`Ring::ready`].
    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count as u64;
        debug_assert!(self.written <= self.passable);
    }

    /// Whether a message for us has come, and all data before it has gone.
    pub(super) fn is_at_other(&self) -> bool {
        matches!(self.walk, Walk::Other) && self.written == self.passable
    }

    /// Whether the target has been given the beginning of a frame whose end is not here.
    pub(super) fn is_inside_frame(&self) -> bool {
        matches!(self.walk, Walk::Body { passing: Passing::InPieces, .. })
    }

    /// Moves what is not passable, from the start of a frame on, to the front of `into`; the walk starts anew
    /// after it. Not for use inside a frame that passes in pieces.
    pub(super) fn take_rest(&mut self, into: &mut BytesMut) {
        debug_assert!(!self.is_inside_frame());
        let start = self.index(self.passable);
        let end = start + (self.received - self.passable) as usize;
        let wrapped = end.saturating_sub(self.bytes.len());
        let after = into.split();
        into.extend_from_slice(self.bytes.get(start..end - wrapped).unwrap_or_default());
        into.extend_from_slice(self.bytes.get(..wrapped).unwrap_or_default());
        into.unsplit(after);
        self.received = self.passable;
        self.walk = AT_FRAME_START;
    }

    /// Bytes received and not yet written.
    pub(super) fn held(&self) -> usize {
        (self.received - self.written) as usize
    }

    /// Bytes of CopyData seen so far, headers not counted.
    pub(super) fn payload(&self) -> u64 {
        self.payload
    }

    fn index(&self, position: u64) -> usize {
        (position % self.bytes.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], length.as_slice(), body].concat()
    }

    /// Puts `bytes` through in reads and writes of those sizes; gives what came out, and the rest.
    fn relay(ring: &mut Ring, bytes: &[u8], reads: &[usize], writes: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut rest) = (Vec::new(), bytes);
        for (read, write) in reads.iter().cycle().zip(writes.iter().cycle()) {
            let space = ring.space();
            let count = (*read).min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            ring.filled(count).unwrap();
            let count = (*write).min(ring.ready().len());
            out.extend_from_slice(&ring.ready()[..count]);
            ring.wrote(count);
            if ring.is_at_other() || (rest.is_empty() && ring.ready().is_empty()) {
                break;
            }
        }
        (out, rest.to_vec())
    }

    proptest! {
        #[test]
        fn passes_every_byte_in_order(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..150), 0..30),
            reads in prop::collection::vec(1usize..80, 1..20),
            writes in prop::collection::vec(1usize..80, 1..20),
        ) {
            let data: Vec<u8> = bodies.iter().flat_map(|body| frame(b'd', body)).collect();
            let end = [frame(b'c', b""), frame(b'C', b"COPY 3\0")].concat();
            let mut ring = Ring::new(64);
            let (out, unread) = relay(&mut ring, &[&data[..], &end[..]].concat(), &reads, &writes);
            prop_assert_eq!(out, data);
            let mut other = BytesMut::new();
            ring.take_rest(&mut other);
            prop_assert_eq!([&other[..], &unread[..]].concat(), end);
            prop_assert_eq!(ring.payload(), bodies.iter().map(|body| body.len() as u64).sum::<u64>());
        }

        #[test]
        fn never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            chunk in 1usize..40,
        ) {
            let mut ring = Ring::new(32);
            for piece in bytes.chunks(chunk) {
                let count = piece.len().min(ring.space().len());
                ring.space()[..count].copy_from_slice(&piece[..count]);
                if ring.filled(count).is_err() {
                    break;
                }
                ring.wrote(ring.ready().len());
            }
        }
    }

    #[test]
    fn holds_a_small_frame_until_it_is_whole() {
        let mut ring = Ring::new(64);
        let bytes = [frame(b'd', b"one"), frame(b'd', b"two")].concat();
        ring.space()[..10].copy_from_slice(&bytes[..10]);
        ring.filled(10).unwrap();
        assert_eq!(ring.ready(), frame(b'd', b"one"));
        assert!(!ring.is_inside_frame());
    }

    #[test]
    fn passes_a_large_frame_in_pieces() {
        let mut ring = Ring::new(64);
        let bytes = frame(b'd', &[7; 40]);
        ring.space()[..20].copy_from_slice(&bytes[..20]);
        ring.filled(20).unwrap();
        assert_eq!(ring.ready(), &bytes[..20]);
        assert!(ring.is_inside_frame());
    }

    #[test]
    fn data_goes_on_after_a_notice() {
        let mut ring = Ring::new(64);
        let (one, notice) = (frame(b'd', b"one"), frame(b'N', b"\0"));
        let (out, _) = relay(&mut ring, &[&one[..], &notice[..]].concat(), &[64], &[64]);
        assert_eq!(out, one);
        let mut other = BytesMut::new();
        ring.take_rest(&mut other);
        assert_eq!(other, notice);
        assert_eq!(relay(&mut ring, &one, &[64], &[64]).0, one);
    }
}
