//! The source's side of logical replication: slots, publications, the stream and its feedback.

mod stream_item;

pub use stream_item::StreamItem;
