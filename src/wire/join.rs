//! Joins short CopyData where they lie. No socket here.
//!
//! A source puts each row into a frame of its own, and a target pays for each frame: by narrow rows a fifth of what it
//! spends on the load. Where frames end means nothing to it, in either format (docs: `protocol-flow`, COPY Operations).
//!
//! Hazard: what is joined has moved; so nothing is begun here that cannot be ended from the bytes at hand.

use crate::wire::frame::{FRAME_BYTES_MAX, HEADER_BYTES, Header};

pub(super) const COPY_DATA: u8 = b'd';

/// Bodies of up to this are joined to others; what a frame costs is little beside longer ones, and to move those is not.
const SHORT_BYTES: usize = 1 << 10;
/// How long a joined body may get: it passes through the cache of the target's processor.
const JOINED_BYTES: usize = 16 << 10;

/// What became of the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Joined {
    /// Bytes of frames that were whole.
    pub(super) taken: usize,
    /// Bytes that they are now. All that followed them follows them still.
    pub(super) left: usize,
    /// Bytes of their bodies.
    pub(super) payload: usize,
}

/// Joins what is short of the whole CopyData that `bytes` begins with. Stops before anything else, be it a header that
/// cannot be.
pub(super) fn join(bytes: &mut [u8]) -> Joined {
    let mut joined = Joined { taken: 0, left: 0, payload: 0 };
    // The frame that the next one may join.
    let mut open = None;
    while let Some(header) = bytes.get(joined.taken..).and_then(<[u8]>::first_chunk) {
        let Ok(Header { tag: COPY_DATA, body_bytes }) = Header::check(*header, FRAME_BYTES_MAX) else {
            break;
        };
        let frame_bytes = HEADER_BYTES + body_bytes;
        if bytes.len() - joined.taken < frame_bytes {
            break;
        }
        let fits = |start: usize| joined.left - start + body_bytes <= HEADER_BYTES + JOINED_BYTES;
        let known = match open.filter(|start| body_bytes <= SHORT_BYTES && fits(*start)) {
            Some(_) => HEADER_BYTES,
            None => {
                close(bytes, open, joined.left);
                open = Some(joined.left);
                0
            }
        };
        let from = joined.taken + known;
        joined.taken += frame_bytes;
        if from != joined.left {
            bytes.copy_within(from..joined.taken, joined.left);
        }
        joined.left += frame_bytes - known;
        joined.payload += body_bytes;
    }
    close(bytes, open, joined.left);
    if joined.taken != joined.left {
        bytes.copy_within(joined.taken.., joined.left);
    }
    joined
}

/// Gives the frame that ends there its length.
fn close(bytes: &mut [u8], start: Option<usize>, end: usize) {
    let Some(start) = start else { return };
    let length = u32::try_from(end - start - 1).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(field) = bytes.get_mut(start + 1..start + HEADER_BYTES) {
        field.copy_from_slice(&length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [b"d", length.as_slice(), body].concat()
    }

    /// What `bytes` have become, less what fell free at their end.
    fn joined(mut bytes: Vec<u8>) -> (Joined, Vec<u8>) {
        let joined = join(&mut bytes);
        bytes.truncate(bytes.len() + joined.left - joined.taken);
        (joined, bytes)
    }

    #[test]
    fn short_frames_become_one() {
        let frames = [data(b"one"), data(b""), data(b"two"), data(b"three")].concat();
        let (counts, bytes) = joined(frames);
        assert_eq!(bytes, data(b"onetwothree"));
        assert_eq!(counts, Joined { taken: 31, left: 16, payload: 11 });
    }

    #[test]
    fn what_is_not_whole_data_stays_as_it_is_behind_them() {
        let short = [data(b"one"), data(b"two")].concat();
        for rest in [&data(b"three")[..9], b"d\0\0", b"c\0\0\0\x04", b"d\0\0\0\x03more"] {
            let (counts, bytes) = joined([&short, rest].concat());
            assert_eq!(bytes, [&data(b"onetwo"), rest].concat());
            assert_eq!(counts, Joined { taken: 16, left: 11, payload: 6 });
        }
        assert_eq!(joined(b"c\0\0\0\x04".to_vec()).0, Joined { taken: 0, left: 0, payload: 0 });
    }

    #[test]
    fn long_frames_stay_alone_and_joined_ones_have_a_bound() {
        let (short, long) = (data(&[1; SHORT_BYTES]), data(&[2; SHORT_BYTES + 1]));
        let (_, bytes) = joined([short.repeat(2 * JOINED_BYTES / SHORT_BYTES), long.repeat(2)].concat());
        let full = data(&[1; JOINED_BYTES]);
        assert_eq!(bytes, [full.clone(), full, long.repeat(2)].concat());
    }
}
