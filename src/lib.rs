//! pgstream moves live PostgreSQL databases from one server to another.
//!
//! The house has floors; a room uses the rooms below it and knows nothing of its neighbours or of what
//! stands above (a test in `tests/it/floors.rs` reads every `use` and holds this to be true).
//!
//! | floor | rooms | |
//! |---|---|---|
//! | 0 | [`pg`] | PostgreSQL's nouns: LSNs, names, versions, connection strings; no I/O |
//! | 1 | [`error`] | the one error type |
//! | 2 | [`wire`], [`pgoutput`], [`telemetry`] | frames and sessions; the pure decoder; metrics, progress, logs |
//! | 3 | [`replication`], [`catalog`] | slots, publications and the stream; what a database contains |
//! | 4 | [`schema`], [`bulk`], [`apply`], [`precheck`], [`verify`], [`demo`], [`spool`] | the engines |
//! | 5 | [`migrate`] | the conductor: phases, durable state, follow, cutover |
//! | 6 | [`cli`] | the command line |
//!
//! A change travels `wire` → `replication` → `pgoutput` → `apply`; a table travels `wire` → `bulk`; and
//! [`migrate`] is the only room that knows there is both.

pub mod apply;
pub mod bulk;
pub mod catalog;
pub mod cli;
pub mod demo;
pub mod error;
pub mod fuzzing;
pub mod migrate;
pub mod pg;
pub mod pgoutput;
pub mod precheck;
pub mod replication;
pub mod schema;
pub mod spool;
pub mod telemetry;
pub mod verify;
pub mod wire;
