//! Why a message could not be read.

use super::decode::Block;

/// A message that is not what the protocol allows here. Names the message, the field and the byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No byte at all.
    #[error("empty pgoutput message")]
    Empty,
    /// No protocol version we know has such a message.
    #[error("unknown pgoutput message {tag:?}")]
    UnknownMessage {
        /// First byte of the message.
        tag: char,
    },
    /// A message of two-phase decoding, which we never ask for.
    #[error("pgoutput message {tag:?} belongs to two-phase decoding, which is off")]
    TwoPhase {
        /// First byte of the message.
        tag: char,
    },
    /// The message exists only in a newer protocol version than the one asked for.
    #[error("pgoutput message {tag:?} does not exist in protocol version {version}")]
    TooNew {
        /// First byte of the message.
        tag: char,
        /// The version the decoder was made for.
        version: u8,
    },
    /// The message may not stand inside, or outside, a streamed block: something before it was lost.
    #[error("pgoutput message {tag:?} cannot stand {block}")]
    Misplaced {
        /// First byte of the message.
        tag: char,
        /// Where the decoder was.
        block: Block,
    },
    /// The message ends before or inside a field.
    #[error("pgoutput message {tag:?} ends early: {field} at byte {offset}")]
    Truncated {
        /// First byte of the message.
        tag: char,
        /// The field that is not all there.
        field: &'static str,
        /// Where that field begins.
        offset: usize,
    },
    /// A flag, a kind or a length with a value that the protocol gives no meaning.
    #[error("pgoutput message {tag:?} has a meaningless {field} ({value}) at byte {offset}")]
    Meaningless {
        /// First byte of the message.
        tag: char,
        /// The field.
        field: &'static str,
        /// Where it begins.
        offset: usize,
        /// What it holds.
        value: i64,
    },
    /// A name that is not UTF-8, although we ask for `client_encoding` UTF8.
    #[error("pgoutput message {tag:?} has a {field} that is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// First byte of the message.
        tag: char,
        /// The field.
        field: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// Bytes after the last field.
    #[error("pgoutput message {tag:?} goes on after its last field, at byte {offset}")]
    Trailing {
        /// First byte of the message.
        tag: char,
        /// Where the message should have ended.
        offset: usize,
    },
}
