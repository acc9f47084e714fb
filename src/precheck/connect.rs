//! Reaching both ends, and saying which part of reaching one went wrong.
//!
//! Hazard: "could not connect" sends the operator to the firewall when the password was wrong. A host
//! that does not answer, a login refused and a database that does not exist each get their own advice.
//! None of them is a finding: a server we did not reach was not checked.

use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::{Conninfo, Host, Identifier, SqlState};
use crate::wire::{Session, SessionSettings, SocketError};

/// Connects for a short look. Nothing the checks run may wait for a lock for long (P26).
///
/// # Errors
/// `Connect` if no server answers or it cannot take us now; `Auth` if it refuses the login or lacks the
/// database.
pub(super) async fn connect(side: Side, conninfo: &Conninfo) -> Result<Session> {
    let settings = SessionSettings { role: "check", extra: vec![("lock_timeout", "10s".to_owned())] };
    Session::connect(conninfo, &settings).await.map_err(|error| explain(side, conninfo, error))
}

/// Says of a server that was not reached which one it is, which part of reaching it went wrong, and what to do.
#[must_use]
pub fn explain(side: Side, conninfo: &Conninfo, error: Error) -> Error {
    let Conninfo { user, .. } = conninfo;
    let database = Identifier::new(conninfo.database());
    let (kind, hint) = match error.sqlstate() {
        Some(SqlState::UNDEFINED_DATABASE) => (
            ErrorKind::Auth,
            format!(
                "The server answers, but has no such database. Create it: \
                 CREATE DATABASE {database} TEMPLATE template0; or correct the connection string."
            ),
        ),
        Some(SqlState::INVALID_PASSWORD) => {
            (ErrorKind::Auth, format!("The password for role {user} is wrong, or the role has none."))
        }
        Some(state) if state.class() == "28" => (
            ErrorKind::Auth,
            format!(
                "The server refuses role {user}: it does not exist there, may not log in, or pg_hba.conf \
                 has no line for it from this address."
            ),
        ),
        Some(SqlState::TOO_MANY_CONNECTIONS) => (
            ErrorKind::Connect,
            "All connections are taken. Close some, or raise max_connections.".to_owned(),
        ),
        Some(SqlState::CANNOT_CONNECT_NOW) => {
            (ErrorKind::Connect, "The server is starting up or shutting down. Try again.".to_owned())
        }
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => (
            ErrorKind::Auth,
            format!(
                "Role {user} may not connect: GRANT CONNECT ON DATABASE {database} TO {};",
                Identifier::new(user)
            ),
        ),
        Some(_) => (error.kind(), "The server answered and refused; its message says why.".to_owned()),
        None => {
            let hint = match (error.advice(), error.kind()) {
                (Some(advice), _) => advice.to_owned(),
                (None, ErrorKind::Auth) => {
                    format!("The server asks role {user} for a proof that was not given.")
                }
                (None, _) if is_silent(&error) => {
                    "Nothing comes back from there, not even a refusal: a firewall or a security group drops what we \
                     send, or the address is wrong. If the way is only slow, raise connect_timeout."
                        .to_owned()
                }
                (None, _) => "No server answers there. Check host, port and firewall, and that PostgreSQL \
                              listens on that address."
                    .to_owned(),
            };
            (error.kind(), hint)
        }
    };
    Error::new(kind, format!("connect to database {database} on the {side}, {}", hosts(conninfo)))
        .hint(hint)
        .on(side)
        .because(error)
}

/// Whether an attempt ended because nobody said anything, as opposed to no.
fn is_silent(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |cause| cause.source()).any(|cause| {
        let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::TimedOut;
        match cause.downcast_ref::<SocketError>() {
            Some(SocketError::TimedOut(_)) => true,
            Some(SocketError::Unreachable(error) | SocketError::TlsCut(error)) => timed_out(error),
            Some(
                SocketError::NoSuchName(_)
                | SocketError::TlsNotOffered
                | SocketError::NotPostgres(_)
                | SocketError::Tls(_),
            )
            | None => false,
        }
    })
}

/// The hosts of a connection string, for a message.
pub(super) fn hosts(conninfo: &Conninfo) -> String {
    conninfo.hosts.iter().map(Host::describe).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::testing::conninfo;

    fn explained(state: Option<SqlState>) -> Error {
        let error = Error::new(ErrorKind::Connect, "connect");
        explain(Side::Source, &conninfo(), state.into_iter().fold(error, Error::with_sqlstate))
    }

    #[test]
    fn each_refusal_has_its_own_kind_and_advice() {
        let missing = explained(Some(SqlState::UNDEFINED_DATABASE));
        assert_eq!(missing.kind(), ErrorKind::Auth);
        assert!(missing.advice().unwrap().contains("CREATE DATABASE \"shop\""));

        let password = explained(Some(SqlState::INVALID_PASSWORD));
        assert_eq!(password.kind(), ErrorKind::Auth);
        assert!(password.advice().unwrap().contains("password"));

        let down = explained(None);
        assert_eq!(down.kind(), ErrorKind::Connect);
        assert!(down.advice().unwrap().contains("No server answers"));
        assert!(down.to_string().contains("the source, db.example:5432"), "{down}");
    }

    #[test]
    fn silence_is_not_a_refusal() {
        let silent = SocketError::TimedOut(std::time::Duration::from_secs(2));
        let error = Error::new(ErrorKind::Connect, "connect").because(silent);
        let told = explain(Side::Source, &conninfo(), error);
        assert!(told.advice().unwrap().contains("not even a refusal"), "{told:?}");
    }

    #[test]
    fn the_cause_and_its_sqlstate_stay_visible() {
        let error = explained(Some(SqlState::UNDEFINED_DATABASE));
        assert_eq!(error.sqlstate(), Some(SqlState::UNDEFINED_DATABASE));
    }
}
