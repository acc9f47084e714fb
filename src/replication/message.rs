//! Barriers: a mark in the source's WAL that everything committed so far lies before.
//!
//! Hazard: "lag is zero" by `pg_current_wal_lsn` may never come true on a server whose other databases
//! write, and a commit that was not flushed yet is missed by it. A commit of our own cannot be passed
//! without passing all before it.

use crate::error::{Error, ErrorKind, Result};
use crate::pg::Lsn;
use crate::wire::Session;

/// Writes a transactional logical message and returns its position: a stream that has got beyond it has
/// delivered every transaction that had committed when this was called.
///
/// Any role may call `pg_logical_emit_message` (docs: `functions-admin`).
///
/// # Errors
/// `Connect` or `Sql`.
pub async fn emit_barrier(source: &Session) -> Result<Lsn> {
    let row = source
        .query_one("SELECT pg_catalog.pg_logical_emit_message(true, 'pgstream', 'barrier')::text", &[])
        .await
        .map_err(|error| Error::from_postgres("mark the source's position", error))?;
    row.get::<_, &str>(0)
        .parse()
        .map_err(|cause| Error::new(ErrorKind::Protocol, "read the source's position").because(cause))
}
