//! The pgoutput plugin's messages: a pure, total, zero-copy decoder and its mirror encoder, protocol v1–v4.
//!
//! Hazard: the bytes do not say how to read themselves. Between `StreamStart` and `StreamStop` every change
//! carries an xid first, so one message lost or read twice makes garbage of all that follow. The
//! [`Decoder`] therefore knows where it is, reads a message wholly or refuses it, and never guesses.
//!
//! ```text
//!   Bytes ── Decoder ──▶ Message ── encode ──▶ the same bytes
//!               │
//!            Block: Outside ⇄ Streaming { xid }
//! ```
//!
//! See PostgreSQL docs, `protocol-logicalrep-message-formats`; server side: proto.c, pgoutput.c.

mod body;
mod decode;
mod encode;
mod error;
#[cfg(test)]
mod golden_tests;
mod message;
mod options;
mod reader;
#[cfg(test)]
mod sample;
mod tuple;

pub use decode::{Block, Decoder};
pub use encode::{TooMany, encode};
pub use error::DecodeError;
pub use message::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, Origin, Relation, RelationColumn,
    ReplicaIdentity, StreamAbort, StreamCommit, StreamStart, Truncate, Type, Update,
};
pub use options::{StreamOptions, TupleFormat};
pub use tuple::{OldTuple, TooLarge, Tuple, Value, Values};
