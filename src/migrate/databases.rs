//! Which databases a command that was given no name looks at, and which cluster it talks to.
//!
//! Hazard: a slot is the cluster's, a publication and our state are a database's. Whoever is to find all that
//! is ours looks into every database.

use crate::error::{Error, ErrorKind, Result};
use crate::pg::Conninfo;
use crate::wire::{Session, SessionSettings};

/// The databases meant: the one that is named, else all that let anyone in, but templates.
///
/// # Errors
/// As [`Session::connect`], when there is none to ask in.
pub(super) async fn meant(conninfo: &Conninfo, settings: &SessionSettings) -> Result<Vec<Conninfo>> {
    if conninfo.dbname.is_some() {
        return Ok(vec![conninfo.clone()]);
    }
    let session = anywhere(conninfo, settings).await?;
    let rows = session
        .query(
            "SELECT datname::text FROM pg_catalog.pg_database
              WHERE datallowconn AND NOT datistemplate
                AND pg_catalog.has_database_privilege(oid, 'CONNECT') ORDER BY datname",
            &[],
        )
        .await
        .map_err(|error| Error::from_postgres("list the server's databases", error))?;
    Ok(rows.iter().map(|row| conninfo.with_database(row.get(0))).collect())
}

/// A session in whichever database there is: the role's own as libpq has it, else `postgres`.
async fn anywhere(conninfo: &Conninfo, settings: &SessionSettings) -> Result<Session> {
    match Session::connect(conninfo, settings).await {
        Err(error) if error.kind() == ErrorKind::Auth || error.sqlstate().is_some() => {
            // What the first refusal said is the better answer, if the second is one, too.
            Session::connect(&conninfo.with_database("postgres"), settings).await.map_err(|_| error)
        }
        connected => connected,
    }
}

/// The cluster's system identifier, where our role may ask for it.
///
/// # Errors
/// `Connect` when the connection broke.
pub(super) async fn system(session: &Session) -> Result<Option<String>> {
    let asked = session
        .query_one("SELECT system_identifier::text FROM pg_catalog.pg_control_system()", &[])
        .await
        .map_err(|error| Error::from_postgres("ask for the system identifier", error));
    match asked {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.sqlstate().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}
