//! From a fresh socket to a connection that can be worked with: startup, proof, pins.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Conninfo, Host, ServerVersion, SqlState};
use crate::wire::auth::{AuthError, Channel, Login, Reply};
use crate::wire::connection::{Connection, ConnectionSettings, Phase};
use crate::wire::frame::{FRAME_BYTES_MAX, FrameBuffer, LOGIN_FRAME_BYTES_MAX};
use crate::wire::message::{BackendKey, BackendMessage, TransactionStatus};
use crate::wire::pins::{self, Drift, Extra, Mode};
use crate::wire::row::Row;
use crate::wire::server_error::ServerError;
use crate::wire::socket::{Route, Socket};

/// A server, as the questions of `target_session_attrs` see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Primary,
    Standby,
}

/// Logs in over `socket` and pins the session's settings.
pub(super) async fn login(
    socket: Socket,
    route: Route,
    host: &Host,
    conninfo: &Conninfo,
    settings: &ConnectionSettings,
) -> Result<(Connection, Standing)> {
    let end_point = socket.end_point_hash();
    let channel = match socket.is_encrypted() {
        true => Channel::Tls { end_point: end_point.as_deref() },
        false => Channel::Plain,
    };
    let mut connection = Connection {
        socket,
        input: FrameBuffer::new(LOGIN_FRAME_BYTES_MAX),
        output: BytesMut::new(),
        phase: Phase::Answering,
        status: TransactionStatus::Idle,
        parameters: HashMap::new(),
        backend: BackendKey { pid: 0, secret: Bytes::new() },
        version: ServerVersion::new(0),
        route: Arc::new(route),
        peer: host.describe(),
    };
    let extra = Extra(&settings.extra);
    let logged_in = async {
        connection.start_up(conninfo, settings, &extra).await?;
        connection.prove(Login::new(conninfo, host, channel)).await?;
        connection.await_ready().await
    };
    logged_in.await.map_err(|error| match error.kind() {
        ErrorKind::Protocol => {
            error.into_kind(ErrorKind::Auth).hint("Check host and port: is this a PostgreSQL server?")
        }
        _ => error,
    })?;
    connection.input.set_limit(FRAME_BYTES_MAX);
    let facts = connection.pin(settings.mode, &extra).await?;
    tracing::debug!(
        peer = connection.peer,
        role = settings.role,
        version = %connection.version,
        encryption = connection.socket.describe_encryption(),
        "connected"
    );
    Ok((connection, facts))
}

impl Connection {
    async fn start_up(
        &mut self,
        conninfo: &Conninfo,
        settings: &ConnectionSettings,
        extra: &Extra<'_>,
    ) -> Result<()> {
        let name = format!("pgstream {}", settings.role);
        let options = pins::startup_options(conninfo.options.as_deref(), extra);
        let mut parameters = vec![
            ("user", conninfo.user.as_str()),
            ("database", conninfo.database()),
            ("application_name", name.trim_end()),
            ("options", options.as_str()),
        ];
        match settings.mode {
            Mode::Sql => {}
            Mode::Replication => parameters.push(("replication", "database")),
        }
        frontend::startup_message(parameters, &mut self.output).map_err(|error| {
            Error::new(ErrorKind::Usage, self.logging_in())
                .hint("A user, database or option name contains a zero byte.")
                .because(error)
        })?;
        self.flush().await
    }

    async fn prove(&mut self, mut login: Login<'_>) -> Result<()> {
        loop {
            let step = match self.receive().await? {
                BackendMessage::Authentication(step) => step,
                BackendMessage::Error(error) => return Err(self.refused(*error)),
                BackendMessage::NegotiateProtocolVersion { .. } => continue,
                other => return Err(self.unexpected(&other, &self.logging_in())),
            };
            match login.step(step).map_err(|error| self.cannot_prove(error))? {
                Reply::Send(message) => {
                    self.output.extend_from_slice(&message);
                    self.flush().await?;
                }
                Reply::Wait => {}
                Reply::Done => return Ok(()),
            }
        }
    }

    async fn await_ready(&mut self) -> Result<()> {
        loop {
            match self.receive().await? {
                BackendMessage::BackendKeyData(key) => self.backend = key,
                BackendMessage::ReadyForQuery(_) => return Ok(()),
                BackendMessage::Error(error) => return Err(self.refused(*error)),
                BackendMessage::NegotiateProtocolVersion { .. } => {}
                other => return Err(self.unexpected(&other, &self.logging_in())),
            }
        }
    }

    /// Looks whether the pins took, and mends what it may (P59, P90, P91).
    async fn pin(&mut self, mode: Mode, extra: &Extra<'_>) -> Result<Standing> {
        let rows = self.query(&pins::settle_statement(mode, extra)).await?;
        let row = only(&rows)?;
        self.version = self.server_version(row)?;
        let standing = match row.require("in_recovery")? {
            "t" => Standing::Standby,
            _ => Standing::Primary,
        };
        let drifted = pins::drifted(extra, |name| row.get(name));
        match (drifted.is_empty(), mode) {
            (true, _) => {}
            (false, Mode::Replication) => return Err(self.not_pinned(&drifted)),
            (false, Mode::Sql) => self.repin(&drifted, extra).await?,
        }
        Ok(standing)
    }

    async fn repin(&mut self, drifted: &[Drift], extra: &Extra<'_>) -> Result<()> {
        tracing::warn!(peer = %self.peer, "startup options were dropped on the way; set again");
        self.query(&pins::repair_statement(drifted, extra)).await?;
        let rows = self.query(&pins::settle_statement(Mode::Sql, extra)).await?;
        let row = only(&rows)?;
        match pins::drifted(extra, |name| row.get(name)) {
            none if none.is_empty() => Ok(()),
            still => Err(self.not_pinned(&still)),
        }
    }

    fn not_pinned(&self, drifted: &[Drift]) -> Error {
        let found: Vec<String> =
            drifted.iter().map(|drift| format!("{} = {:?}", drift.name, drift.found)).collect();
        Error::new(ErrorKind::Check, format!("pin the session's settings on {}", self.peer))
            .hint("A pooler or proxy on the way drops startup options. Give the server's own address.")
            .because(format!("the server shows {}", found.join(", ")))
    }

    fn server_version(&self, row: &Row) -> Result<ServerVersion> {
        let number = row.require("server_version_num")?;
        let number = number.parse().map_err(|error: std::num::ParseIntError| {
            Error::new(ErrorKind::Protocol, format!("read the version of {}", self.peer)).because(error)
        })?;
        Ok(ServerVersion::new(number))
    }

    fn logging_in(&self) -> String {
        format!("log in to {}", self.peer)
    }

    fn cannot_prove(&mut self, error: AuthError) -> Error {
        self.phase = Phase::Broken;
        let kind = match error {
            AuthError::OutOfOrder { .. } => ErrorKind::Protocol,
            _ => ErrorKind::Auth,
        };
        let hint = match error {
            AuthError::NoPassword => {
                Some("Give it in the connection string, in PGPASSWORD, or in a passfile.")
            }
            AuthError::NoChannelBinding { .. } => {
                Some("Channel binding needs TLS and SCRAM-SHA-256 passwords on the server.")
            }
            _ => None,
        };
        let error = Error::new(kind, self.logging_in()).because(error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn refused(&mut self, refusal: ServerError) -> Error {
        self.phase = Phase::Broken;
        // PgBouncer: "unsupported startup parameter: replication"; its SQLSTATE would have us try for ever.
        let pooled = refusal.message.contains("startup parameter");
        let insists_on_tls = refusal.sqlstate == Some(SqlState::INVALID_AUTHORIZATION);
        let error = refusal.during(self.logging_in());
        match (pooled, insists_on_tls) {
            (true, _) => error
                .into_kind(ErrorKind::Auth)
                .hint("A connection pooler answers here. Give the server's own address."),
            (false, true) if error.advice().is_none() => error
                .hint("See pg_hba.conf on the server: address, database, role and TLS must match a line."),
            _ => error,
        }
    }
}

fn only(rows: &[Row]) -> Result<&Row> {
    rows.first().ok_or_else(|| {
        Error::new(ErrorKind::Protocol, "read the session's settings").because("the server sent no row")
    })
}
