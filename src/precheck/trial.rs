//! What no catalog tells for certain, tried: a publication, an extension, a replication connection.
//!
//! Hazard: a probe must not harm the source. A publication that names a table makes its UPDATEs fail the
//! moment it commits (P06), so the one we try names none, waits for no lock, and is rolled back. A slot keeps
//! WAL for as long as it lives (P16, P30), so the one we try is temporary: it ends with its connection,
//! however that ends.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::catalog::{self, Capabilities};
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{Conninfo, Identifier, SqlState, SystemIdentifier, quote_literal};
use crate::precheck::facts::Trial;
use crate::replication;
use crate::wire::{Connection, ConnectionSettings, Session};

/// How long a slot may wait for each transaction that has written (P12).
const LOCK_TIMEOUT: &str = "5s";
/// How long anything on the replication connection may take; a slot waits for one writer after another.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a replication login is tried that the server has not answered, and how far apart.
const LOGIN_TRIES: u32 = 3;
const LOGIN_PAUSE: Duration = Duration::from_millis(300);

/// Tries CREATE PUBLICATION with no table in it, and rolls it back (P05).
///
/// # Errors
/// `Connect` if the connection broke.
pub(super) async fn try_publication(session: &Session, may: &Capabilities) -> Result<Trial> {
    if may.in_recovery {
        return Ok(Trial::NotTried);
    }
    let sql = "BEGIN; SET LOCAL lock_timeout = '2s'; CREATE PUBLICATION pgstream_check; ROLLBACK";
    let Err(error) = session.batch_execute(sql).await else { return Ok(Trial::Allowed) };
    let refusal = describe(&error);
    let error = Error::from_postgres("try to create a publication", error);
    let Some(state) = error.sqlstate() else { return Err(error) };
    session.batch_execute("ROLLBACK").await.map_err(|error| Error::from_postgres("roll back", error))?;
    Ok(match state {
        SqlState::LOCK_NOT_AVAILABLE => Trial::NotTried,
        _ => Trial::Refused { message: refusal, advice: None },
    })
}

/// Tries CREATE EXTENSION in that schema, and rolls it back (P78).
///
/// # Errors
/// `Connect` if the connection broke.
pub(super) async fn try_extension(session: &Session, name: &str, schema: &str) -> Result<Trial> {
    let (name, schema) = (Identifier::new(name), Identifier::new(schema));
    let there = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = {}) AS is_there",
        quote_literal(schema.raw())
    );
    let there = catalog::row(session, "look for an extension's schema", &there).await?;
    let create_schema = match catalog::field(&there, "is_there")? {
        true => String::new(),
        false => format!("CREATE SCHEMA {schema};"),
    };
    // By way of search_path, not SCHEMA: some insist on a schema of their own.
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '2s'; {create_schema} SET LOCAL search_path = {schema}; \
         CREATE EXTENSION {name} CASCADE; ROLLBACK"
    );
    let Err(error) = session.batch_execute(&sql).await else { return Ok(Trial::Allowed) };
    let refusal = describe(&error);
    let error = Error::from_postgres("try to create an extension", error);
    let Some(state) = error.sqlstate() else { return Err(error) };
    session.batch_execute("ROLLBACK").await.map_err(|error| Error::from_postgres("roll back", error))?;
    Ok(match state {
        SqlState::LOCK_NOT_AVAILABLE => Trial::NotTried,
        _ => Trial::Refused { message: refusal, advice: None },
    })
}

/// Whether a replication slot can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// There is room for one.
    Try,
    /// There is none, or the server would first have to change: other checks speak of that.
    Spare,
}

/// What a replication connection showed.
pub(super) struct Replication {
    /// Whether it came about, and could do what we need (P04).
    pub(super) trial: Trial,
    /// The cluster, which IDENTIFY_SYSTEM tells even where `pg_control_system()` is kept from us (P31).
    pub(super) system: Option<SystemIdentifier>,
}

/// Opens a replication connection, asks who answers, and makes a temporary slot where that is worth it.
///
/// Whatever goes wrong is the outcome: an ordinary session to the same server stands already.
pub(super) async fn try_replication(source: &Conninfo, slot: Slot) -> Replication {
    let settings = ConnectionSettings::replication("check").set("lock_timeout", LOCK_TIMEOUT);
    let mut tries = 0;
    let (mut connection, identity) = loop {
        tries += 1;
        let identified = in_time(async {
            let mut connection = Connection::connect(source, &settings).await?;
            let identity = replication::identify(&mut connection).await?;
            Ok((connection, identity))
        });
        match identified.await {
            Ok(identified) => break identified,
            // A route that breaks once is no refusal, and must not decide against replication.
            Err(error) if error.sqlstate().is_none() && tries < LOGIN_TRIES => {
                tokio::time::sleep(LOGIN_PAUSE).await;
            }
            Err(error) => return Replication { trial: outcome_of_login(&error), system: None },
        }
    };
    let trial = match slot {
        Slot::Spare => Trial::Allowed,
        Slot::Try => try_slot(&mut connection).await,
    };
    connection.close().await;
    Replication { trial, system: Some(identity.system) }
}

async fn try_slot(connection: &mut Connection) -> Trial {
    let name = format!("pgstream_check_{:08x}", RandomState::new().build_hasher().finish() & 0xFFFF_FFFF);
    let create = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
    let tried = tokio::time::timeout(PATIENCE, connection.query(&create)).await;
    let Ok(created) = tried else {
        // The right is looked at before the waiting begins.
        return Trial::Allowed;
    };
    match created {
        Ok(_) => {
            // So that the place is free again before anyone asks; else it is when the connection ends.
            let _ = connection.query(&format!("DROP_REPLICATION_SLOT {name}")).await;
            Trial::Allowed
        }
        Err(error) => outcome_of_slot(&error),
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = |_| {
        Error::new(ErrorKind::Connect, "open a replication connection")
            .because(format!("no answer within {} s", PATIENCE.as_secs()))
    };
    tokio::time::timeout(PATIENCE, work).await.map_err(silent)?
}

/// A role without the right, a line missing in pg_hba.conf, a pooler in between (P91): the error tells which.
fn outcome_of_login(error: &Error) -> Trial {
    match error.sqlstate() {
        // Every walsender or connection is taken, which other checks count.
        Some(SqlState::TOO_MANY_CONNECTIONS) => Trial::NotTried,
        _ => refused(error),
    }
}

fn outcome_of_slot(error: &Error) -> Trial {
    match error.sqlstate() {
        // Waited too long for writers, or someone else took the last place: neither is a matter of rights.
        Some(SqlState::LOCK_NOT_AVAILABLE | SqlState::CONFIGURATION_LIMIT_EXCEEDED) => Trial::Allowed,
        _ => refused(error),
    }
}

fn refused(error: &Error) -> Trial {
    Trial::Refused { message: describe(error), advice: error.advice().map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(state: SqlState) -> Error {
        Error::new(ErrorKind::of_sqlstate(state), "try").with_sqlstate(state)
    }

    #[test]
    fn what_other_checks_count_is_no_refusal() {
        assert_eq!(outcome_of_login(&error(SqlState::TOO_MANY_CONNECTIONS)), Trial::NotTried);
        assert_eq!(outcome_of_slot(&error(SqlState::LOCK_NOT_AVAILABLE)), Trial::Allowed);
        assert_eq!(outcome_of_slot(&error(SqlState::CONFIGURATION_LIMIT_EXCEEDED)), Trial::Allowed);
    }

    #[test]
    fn a_refusal_keeps_its_advice() {
        let pooler = error(SqlState::INSUFFICIENT_PRIVILEGE).hint("Go round it.");
        let expected = Trial::Refused { message: "try".to_owned(), advice: Some("Go round it.".to_owned()) };
        assert_eq!(outcome_of_login(&pooler), expected);
        assert_eq!(outcome_of_slot(&pooler), expected);
    }
}
