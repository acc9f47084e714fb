//! The pgoutput plugin's messages: a pure, total, zero-copy decoder and its mirror encoder.

mod message;

pub use message::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, OldTuple, Origin, Relation, RelationColumn,
    ReplicaIdentity, StreamAbort, StreamCommit, StreamStart, Truncate, Tuple, Type, Update, Value, Values,
};
