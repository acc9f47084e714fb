//! What arrives on a replication connection once streaming has begun.

use bytes::Bytes;

use crate::pg::{Lsn, PgTimestamp};

/// One CopyData message from the walsender (docs: `protocol-replication`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamItem {
    /// `XLogData`: one pgoutput message.
    Data {
        /// Where in the WAL the message stems from; zero for some. Never identifies a change.
        start: Lsn,
        /// The walsender's position when it sent this.
        wal_end: Lsn,
        /// The source's clock when it sent this.
        sent: PgTimestamp,
        /// The pgoutput message.
        message: Bytes,
    },
    /// Primary keepalive.
    Keepalive {
        /// The walsender's position: everything before it that concerns us was sent before this.
        wal_end: Lsn,
        /// The source's clock when it sent this.
        sent: PgTimestamp,
    },
}
