//! Ordinary SQL sessions: tokio-postgres over a connection of ours.
//!
//! Hazard: when a connection ends, its queries fail with "connection closed" and nothing more; the reason
//! ("terminating connection due to administrator command") reaches only the task that drives it. So that
//! task keeps the reason, and [`Session::closed`] gives it: a snapshot's keeper has nothing else to go by (P13).

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::error::{Error, Result, describe};
use crate::pg::{Conninfo, ServerVersion};
use crate::wire::cancel::CancelToken;
use crate::wire::connection::{Connection, ConnectionSettings};
use crate::wire::handover::Handover;
use crate::wire::pins::Mode;

/// What a session pins beyond the settings that every session of ours pins.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings {
    /// Shown in `pg_stat_activity` after `pgstream `: "control", "keeper", "apply 0".
    pub role: &'static str,
    /// Further `name = value` settings; each replaces the pin of its name. Not `client_encoding`: the
    /// client library reads UTF-8 only.
    pub extra: Vec<(&'static str, String)>,
}

impl SessionSettings {
    /// A session for that role.
    #[must_use]
    pub fn role(role: &'static str) -> SessionSettings {
        SessionSettings { role, extra: Vec::new() }
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<String>) -> SessionSettings {
        self.extra.push((name, value.into()));
        self
    }
}

/// A tokio-postgres client with its connection driven in the background; the connection ends when this drops.
#[derive(Debug)]
pub struct Session {
    client: tokio_postgres::Client,
    driver: tokio::task::JoinHandle<()>,
    closed: watch::Receiver<Option<Arc<str>>>,
    cancel: CancelToken,
    version: ServerVersion,
    backend_pid: i32,
}

impl Session {
    /// Connects and pins the settings that change bytes or kill long work (P59, P90).
    ///
    /// # Errors
    /// As [`Connection::connect`].
    pub async fn connect(conninfo: &Conninfo, settings: &SessionSettings) -> Result<Session> {
        let SessionSettings { role, extra } = settings.clone();
        let connection =
            Connection::connect(conninfo, &ConnectionSettings { role, mode: Mode::Sql, extra }).await?;
        Session::over(connection).await
    }

    /// Goes on with a connection in the extended protocol.
    async fn over(connection: Connection) -> Result<Session> {
        let (version, backend_pid) = (connection.version(), connection.backend_pid());
        let (cancel, peer) = (connection.cancel_token(), connection.peer.clone());
        let mut config = tokio_postgres::Config::new();
        config.user("logged in already").ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, mut connection) = config
            .connect_raw(Handover::new(connection), NoTls)
            .await
            .map_err(|error| Error::from_postgres(format!("open a session on {peer}"), error))?;
        let (why, closed) = watch::channel(None);
        let driver = tokio::spawn(async move {
            let reason = loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) => {
                        tracing::debug!(peer, %notice, "server notice");
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break describe(&error),
                    None => break "the session was closed".to_owned(),
                }
            };
            // Nobody may be left to hear it.
            let _ = why.send(Some(reason.into()));
        });
        Ok(Session { client, driver, closed, cancel, version, backend_pid })
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// The server's process.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Why the connection ended; `None` while it lives.
    #[must_use]
    pub fn closed(&self) -> Option<Arc<str>> {
        self.closed.borrow().clone()
    }

    /// Waits for the connection to end, and gives the reason.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn until_closed(&self) -> Arc<str> {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The driver was aborted: only a drop of this very session does that.
            Err(_) => "the session was dropped".into(),
        }
    }

    /// What interrupts this session's query from elsewhere.
    ///
    /// Stands before the client's own `cancel_token`, which knows neither our route nor a long key.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }
}

impl Deref for Session {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
