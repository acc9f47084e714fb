//! The change stream on local disk: received and confirmed while the target cannot take it yet.
//!
//! Hazards, in the order in which they would lose data:
//! - What is confirmed is gone from the source, so the spool is then the only copy: nothing counts as spooled
//!   before `fsync`, and only a position that no transaction straddles is ever given out (`log`).
//! - A new connection sends again what had not ended. The log is cut back to its last durable cut first, and a
//!   mark tells the reader to forget transactions that were still being streamed (`record`).
//! - A disk returns other bytes than it was given, or a file is missing from the middle: each block has a
//!   checksum, each segment knows its predecessor's length (`segment`, `reader`).
//! - The walsender announces a table once per connection. A segment repeats what its readers must know, so that
//!   those before it can go (`outline`).
//! - Rows of the source lie here in the clear: the directory is for its owner alone.
//!
//! ```text
//!   StreamItem ─▶ record ─▶ log ═▶ 0000000001.spool 0000000002.spool … ═▶ reader ─▶ Delivery
//!                            │      segment = header, shapes, blocks        (trims what the target has)
//!                            ╰─ Synced: the position that may be confirmed
//! ```
//! Everything here is synchronous; whoever calls from a task hands it to a thread that may block.

mod directory;
mod log;
mod outline;
mod reader;
mod record;
#[cfg(test)]
mod sample;
mod segment;

pub use directory::{Volume, files_bytes, remove, volume};
pub use log::{Log, Synced, Unusable};
pub use reader::{Delivery, Reader};
pub use segment::Origin;
