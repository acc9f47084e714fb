//! PostgreSQL's nouns, as types: the ground floor, which every other room stands on.
//!
//! Hazard: an LSN, an xid and an OID are all numbers, and a table's name is three different strings
//! (raw, quoted, folded). Mixing them up loses rows without an error, so each is a type of its own
//! and text is checked once, where it enters. Nothing here does I/O.

mod conninfo;
mod id;
mod lsn;
mod name;
mod pool;
mod sqlstate;
mod time;
mod version;

pub use conninfo::{
    ChannelBindingMode, Conninfo, ConninfoError, Environment, Files, Given, Host, HostName, Passfile,
    RootCertificates, Secret, SslMode, SslNegotiation, TargetSessionAttrs,
};
pub use id::{Oid, RelationId, SystemIdentifier, Timeline, Xid};
pub use lsn::{Lsn, ParseLsnError};
pub use name::{Identifier, InvalidSlotName, QualifiedName, SlotName, quote_literal};
pub use pool::TextPool;
pub use sqlstate::SqlState;
pub use time::PgTimestamp;
pub use version::ServerVersion;
