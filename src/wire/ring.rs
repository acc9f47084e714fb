//! The bytes under way between two COPYs: a ring that knows where frames end. No socket here.
//!
//! Hazard: what is handed on must not end inside a frame, or a failing source leaves the target waiting for
//! the rest of a row and no word can be got in. So a frame is held until it is whole, unless it is a good
//! part of the ring: a row may be a gigabyte, and passes in pieces.
//!
//! CopyData has the same bytes in both directions, so frames pass unopened; only headers are looked at, and short
//! frames that are here together go on as one ([`join`]).
//!
//! ```text
//!        written          passable       walked        received
//! ──────────┼─────────────────┼──────────────┼─────────────┼──────────▶ position in the stream
//!           │ whole CopyData  │ part of one, │ not looked  │   free, up to written + capacity
//!           │ for the target  │ or a message │ at, behind  │
//!           │                 │ for us       │ the message │
//! ```

use bytes::BytesMut;

use crate::wire::frame::{FRAME_BYTES_MAX, FrameError, HEADER_BYTES, Header};
use crate::wire::join::{COPY_DATA, Joined, join};

/// A ring buffer. Always `written <= passable <= walked <= received <= written + capacity`.
pub(super) struct Ring {
    bytes: Box<[u8]>,
    written: u64,
    passable: u64,
    walked: u64,
    received: u64,
    payload: u64,
    walk: Walk,
}

/// What the next byte to be looked at is.
enum Walk {
    /// Part of a header, of which these bytes are known.
    Header { known: [u8; HEADER_BYTES], count: usize },
    /// Part of a CopyData, of which this many bytes are missing.
    Body { missing: usize, passing: Passing },
    /// The body of a message for us, which begins at `passable` and has this many bytes in all.
    Other { frame_bytes: usize },
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
        Ring {
            bytes: vec![0; capacity].into_boxed_slice(),
            written: 0,
            passable: 0,
            walked: 0,
            received: 0,
            payload: 0,
            walk: AT_FRAME_START,
        }
    }

    /// Where the next bytes of the source go: the longest run that is free. Empty while a message for us waits,
    /// for it may be the last word before a hang-up, and is to be read before that.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if let (Walk::Header { count: 0, .. }, true) = (&self.walk, self.written == self.received) {
            // Nothing is held: on from the front, which the processor's cache knows best.
            let front = self.received.next_multiple_of(self.bytes.len() as u64);
            (self.written, self.passable, self.walked, self.received) = (front, front, front, front);
        }
        let free = match self.walk {
            Walk::Other { .. } => 0,
            Walk::Header { .. } | Walk::Body { .. } => self.bytes.len() - self.held(),
        };
        let start = self.index(self.received);
        let end = self.bytes.len().min(start + free);
        self.bytes.get_mut(start..end).unwrap_or_default()
    }

    /// Takes note of `count` bytes put into [`Ring::space`].
    pub(super) fn filled(&mut self, count: usize) -> Result<(), FrameError> {
        self.received += count as u64;
        self.walk()
    }

    /// Looks at headers until the bytes end or a message for us begins.
    fn walk(&mut self) -> Result<(), FrameError> {
        while self.walked < self.received {
            if let Walk::Header { count: 0, .. } = self.walk {
                self.step();
            }
            let start = self.index(self.walked);
            let end = self.bytes.len().min(start + (self.received - self.walked) as usize);
            let fresh = self.bytes.get(start..end).unwrap_or_default();
            match &mut self.walk {
                Walk::Other { .. } => break,
                Walk::Header { known, count } => {
                    let take = fresh.len().min(HEADER_BYTES - *count);
                    for (slot, byte) in known.iter_mut().skip(*count).zip(fresh) {
                        *slot = *byte;
                    }
                    *count += take;
                    self.walked += take as u64;
                    if *count == HEADER_BYTES {
                        let header = Header::check(*known, FRAME_BYTES_MAX)?;
                        self.enter(header);
                    }
                }
                Walk::Body { missing, passing } => {
                    let take = fresh.len().min(*missing);
                    *missing -= take;
                    self.walked += take as u64;
                    let complete = *missing == 0;
                    if complete || *passing == Passing::InPieces {
                        self.passable = self.walked;
                    }
                    if complete {
                        self.walk = AT_FRAME_START;
                    }
                }
            }
        }
        debug_assert!(self.written <= self.passable && self.passable <= self.walked);
        debug_assert!(self.walked <= self.received && self.held() <= self.bytes.len());
        Ok(())
    }

    /// Steps over whole CopyData that lies in one piece at the start of a frame, as few frames as may be.
    fn step(&mut self) {
        let start = self.index(self.walked);
        let end = start + (self.received - self.walked) as usize;
        let Some(fresh) = self.bytes.get_mut(start..end) else { return };
        let Joined { taken, left, payload } = join(fresh);
        self.walked += left as u64;
        self.passable = self.walked;
        self.received -= (taken - left) as u64;
        self.payload += payload as u64;
    }

    /// A header is complete; its body begins at `walked`.
    fn enter(&mut self, header: Header) {
        let frame_bytes = HEADER_BYTES + header.body_bytes;
        if header.tag != COPY_DATA {
            self.walk = Walk::Other { frame_bytes };
            return;
        }
        self.payload += header.body_bytes as u64;
        let large = frame_bytes > self.bytes.len() / 2;
        self.walk = match (header.body_bytes, large) {
            (0, _) => AT_FRAME_START,
            (missing, false) => Walk::Body { missing, passing: Passing::Whole },
            (missing, true) => Walk::Body { missing, passing: Passing::InPieces },
        };
        if header.body_bytes == 0 || large {
            self.passable = self.walked;
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
        matches!(self.walk, Walk::Other { .. }) && self.written == self.passable
    }

    /// Whether the target has been given the beginning of a frame whose end is not here.
    pub(super) fn is_inside_frame(&self) -> bool {
        matches!(self.walk, Walk::Body { passing: Passing::InPieces, .. })
    }

    /// Moves the message for us, or what is here of it, to the front of `into`, and walks on behind it.
    pub(super) fn take_other(&mut self, into: &mut BytesMut) -> Result<(), FrameError> {
        let Walk::Other { frame_bytes } = self.walk else { return Ok(()) };
        debug_assert!(self.is_at_other());
        self.take(frame_bytes, into);
        self.written = self.passable;
        self.walk()
    }

    /// Moves all that is not passable, which begins at the start of a frame, to the front of `into`. Not for
    /// use inside a frame that passes in pieces.
    pub(super) fn take_rest(&mut self, into: &mut BytesMut) {
        debug_assert!(!self.is_inside_frame());
        let end = self.passable;
        self.take(usize::MAX, into);
        // What is passable stays, and nothing follows it.
        (self.passable, self.walked, self.received) = (end, end, end);
    }

    /// Copies up to `count` bytes from `passable` on to the front of `into`, and steps over them.
    fn take(&mut self, count: usize, into: &mut BytesMut) {
        let count = count.min((self.received - self.passable) as usize);
        let start = self.index(self.passable);
        let wrapped = (start + count).saturating_sub(self.bytes.len());
        let after = into.split();
        into.extend_from_slice(self.bytes.get(start..start + count - wrapped).unwrap_or_default());
        into.extend_from_slice(self.bytes.get(..wrapped).unwrap_or_default());
        into.unsplit(after);
        self.passable += count as u64;
        self.walked = self.passable;
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

    /// What whole CopyData hold.
    fn bodies(mut data: &[u8]) -> Vec<u8> {
        let mut bodies = Vec::new();
        while let Some((header, rest)) = data.split_first_chunk() {
            let header = Header::check(*header, FRAME_BYTES_MAX).unwrap();
            assert_eq!(header.tag, COPY_DATA);
            let (body, rest) = rest.split_at(header.body_bytes);
            bodies.extend_from_slice(body);
            data = rest;
        }
        bodies
    }

    /// Puts `bytes` through in reads and writes of those sizes; gives the data, and the messages for us.
    fn relay(ring: &mut Ring, bytes: &[u8], reads: &[usize], writes: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let (mut data, mut others, mut rest) = (Vec::new(), Vec::new(), bytes);
        let mut early = BytesMut::new();
        for (read, write) in reads.iter().cycle().zip(writes.iter().cycle()) {
            let space = ring.space();
            let count = (*read).min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            ring.filled(count).unwrap();
            let count = (*write).min(ring.ready().len());
            data.extend_from_slice(&ring.ready()[..count]);
            ring.wrote(count);
            if ring.is_at_other() {
                ring.take_other(&mut early).unwrap();
                // A message of which only a part was in the ring: the rest is read past it.
                let length = i32::from_be_bytes(*early[1..].first_chunk().unwrap());
                let missing = usize::try_from(length).unwrap() + 1 - early.len();
                early.extend_from_slice(&rest[..missing]);
                rest = &rest[missing..];
                others.extend_from_slice(&early.split());
            }
            if rest.is_empty() && ring.ready().is_empty() && !ring.is_at_other() {
                break;
            }
        }
        (data, others)
    }

    proptest! {
        #[test]
        fn passes_data_and_picks_out_messages(
            frames in prop::collection::vec(
                (prop::sample::select(b"ddddN".to_vec()), prop::collection::vec(any::<u8>(), 0..150)), 0..30),
            reads in prop::collection::vec(1usize..80, 1..20),
            writes in prop::collection::vec(1usize..80, 1..20),
        ) {
            let all = |wanted: fn(u8) -> bool| -> Vec<u8> {
                frames.iter().filter(|(tag, _)| wanted(*tag)).flat_map(|(tag, body)| frame(*tag, body)).collect()
            };
            let mut ring = Ring::new(64);
            let (data, others) = relay(&mut ring, &all(|_| true), &reads, &writes);
            prop_assert_eq!(others, all(|tag| tag != b'd'));
            let rows = frames.iter().filter(|(tag, _)| *tag == b'd').flat_map(|(_, body)| body);
            let rows: Vec<u8> = rows.copied().collect();
            prop_assert_eq!(ring.payload(), rows.len() as u64);
            prop_assert_eq!(bodies(&data), rows);
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
        // All of the first, and of the second the header and two bytes.
        ring.space()[..15].copy_from_slice(&bytes[..15]);
        ring.filled(15).unwrap();
        assert_eq!(ring.ready(), frame(b'd', b"one"));
        assert!(!ring.is_inside_frame());
    }

    #[test]
    fn passes_as_one_what_is_here_together() {
        let mut ring = Ring::new(64);
        let bytes = [frame(b'd', b"one"), frame(b'd', b"two"), frame(b'd', b"three")].concat();
        // Of the last one a byte is missing.
        let count = bytes.len() - 1;
        ring.space()[..count].copy_from_slice(&bytes[..count]);
        ring.filled(count).unwrap();
        assert_eq!(ring.ready(), frame(b'd', b"onetwo"));
        ring.space()[..1].copy_from_slice(b"e");
        ring.filled(1).unwrap();
        assert_eq!(ring.ready(), [frame(b'd', b"onetwo"), frame(b'd', b"three")].concat());
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
    fn gives_back_the_frame_it_was_holding() {
        let mut ring = Ring::new(64);
        let (one, two) = (frame(b'd', b"one"), frame(b'd', b"two"));
        ring.space()[..8].copy_from_slice(&one);
        ring.filled(8).unwrap();
        ring.space()[..7].copy_from_slice(&two[..7]);
        ring.filled(7).unwrap();
        let mut rest = BytesMut::from(&two[7..]);
        ring.take_rest(&mut rest);
        assert_eq!(rest, two);
        assert_eq!(ring.ready(), one);
    }
}
