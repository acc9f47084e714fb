//! Ordinary SQL sessions over tokio-postgres.

use std::ops::{Deref, DerefMut};

use crate::error::{Error, Result};
use crate::pg::{Conninfo, HostName};

/// What a session pins beyond the settings that every session of ours pins.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings {
    /// Shown in `pg_stat_activity` after `pgstream `: "control", "keeper", "apply 0".
    pub role: &'static str,
    /// Further `name = value` settings, sent as startup parameters.
    pub extra: Vec<(&'static str, String)>,
}

/// A tokio-postgres client with its connection driven in the background; the connection ends when this drops.
#[derive(Debug)]
pub struct Session {
    client: tokio_postgres::Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Connects and pins the settings that change bytes or kill long work (P59, P90).
    ///
    /// # Errors
    /// `Connect`, `Auth` or `Sql`, as [`Error::from_postgres`] classes them.
    pub async fn connect(conninfo: &Conninfo, settings: &SessionSettings) -> Result<Session> {
        let mut config = tokio_postgres::Config::new();
        for host in &conninfo.hosts {
            match &host.name {
                HostName::Tcp(name) => config.host(name),
                HostName::Unix(directory) => config.host_path(directory),
            };
            config.port(host.port);
        }
        config.user(&conninfo.user).dbname(conninfo.database());
        config.application_name(format!("pgstream {}", settings.role));
        if let Some(password) = &conninfo.password {
            config.password(password.reveal());
        }
        let failed = |error| Error::from_postgres("connect", error);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(failed)?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut pins = "SET search_path = ''; SET row_security = off; SET statement_timeout = 0".to_owned();
        for (name, value) in &settings.extra {
            pins += &format!("; SET {name} = {}", crate::pg::quote_literal(value));
        }
        client.batch_execute(&pins).await.map_err(failed)?;
        Ok(Session { client, driver })
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
