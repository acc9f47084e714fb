//! The source's side of logical replication: publications, slots, the stream and its feedback.
//!
//! Hazards, first to last:
//! - A publication must exist before the slot's consistent point, or decoding dies on its first change
//!   and never moves again (P10). Creation is therefore publication, then slot.
//! - A slot left behind fills the source's disk (P16, P30): callers journal a name before it is created.
//! - Slot creation waits for every writing transaction of the whole cluster, and only `lock_timeout`
//!   bounds that wait (P12).
//! - What is confirmed is gone: feedback carries only positions that are durable on the target.

mod blockers;
mod message;
mod publication;
mod reader_thread;
mod slot;
mod stream;
mod stream_item;

pub use blockers::{Blocker, slot_blockers};
pub use message::emit_barrier;
pub use publication::{
    FoundPublication, Publication, PublishedActions, PublishedTable, Publisher, declare_publication,
    drop_publication, fill_publication, find_publications, published_tables, publisher,
};
pub use slot::{
    CreatedSlot, FoundSlot, SlotState, SourceIdentity, create_slot, create_temporary_slot, drop_slot,
    end_walsender, find_slots, free_slot, identify, slot_state, wal_position,
};
pub use stream::{FeedbackPositions, FeedbackWriter, StreamReader, start_stream};
pub use stream_item::StreamItem;
