//! Reads the [`Surroundings`] of a database, on either server.

use std::collections::HashMap;

use crate::catalog::{Capabilities, field, row, rows};
use crate::error::{Error, Result};
use crate::pg::{Conninfo, Host, HostName, Secret, ServerVersion};
use crate::precheck::surroundings::{Locale, Route, StoredSetting, Surroundings};
use crate::wire::Session;

pub(super) async fn load(session: &Session, conninfo: &Conninfo, may: &Capabilities) -> Result<Surroundings> {
    Ok(Surroundings {
        settings: settings(session).await?,
        stored: stored(session).await?,
        locale: locale(session, may.version).await?,
        route: route(session, conninfo).await?,
    })
}

/// Lists of extensions that a service lets its users create. Where the server knows none of them they are NULL.
const ALLOW_LISTS: [&str; 3] = ["extwlist.extensions", "rds.allowed_extensions", "azure.extensions"];

async fn settings(session: &Session) -> Result<HashMap<String, String>> {
    let found = rows(session, "read the server's settings", SETTINGS).await?;
    let mut settings = found
        .iter()
        .map(|row| Ok((field(row, "name")?, field(row, "setting")?)))
        .collect::<Result<HashMap<String, String>>>()?;
    for name in ALLOW_LISTS {
        let sql = format!("SELECT pg_catalog.current_setting('{name}', true) AS setting");
        match row(session, "read which extensions are allowed", &sql).await {
            Ok(row) => {
                let setting: Option<String> = field(&row, "setting")?;
                settings.extend(setting.map(|setting| (name.to_owned(), setting)));
            }
            // Kept to superusers: as good as untold.
            Err(error) if error.sqlstate().is_some_and(|state| state.class() == "42") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(settings)
}

async fn stored(session: &Session) -> Result<Vec<StoredSetting>> {
    let found = rows(session, "read the settings of roles and databases", STORED).await?;
    let read = |row| -> Result<Option<StoredSetting>> {
        let setting: &str = field(row, "setting")?;
        let Some((name, value)) = setting.split_once('=') else { return Ok(None) };
        Ok(Some(StoredSetting {
            role: field(row, "rolname")?,
            is_of_database: field(row, "is_of_database")?,
            is_ours: field(row, "is_ours")?,
            name: name.to_ascii_lowercase(),
            value: Secret::new(value),
        }))
    };
    found.iter().filter_map(|row| read(row).transpose()).collect()
}

async fn locale(session: &Session, version: ServerVersion) -> Result<Locale> {
    let row = row(session, "read the database's locale", &locale_query(version)).await?;
    let recorded: Option<String> = field(&row, "recorded")?;
    Ok(Locale {
        collate: field(&row, "datcollate")?,
        ctype: field(&row, "datctype")?,
        provider: field(&row, "provider")?,
        provider_locale: field(&row, "provider_locale")?,
        versions: recorded.zip(field::<Option<String>>(&row, "actual")?),
    })
}

async fn route(session: &Session, conninfo: &Conninfo) -> Result<Route> {
    let mut served_by = [0; 2];
    for pid in &mut served_by {
        let sql = "SELECT pg_catalog.pg_backend_pid() AS pid";
        // Prepared and run in one round trip each, outside a transaction: a pooler may give each its own server.
        let row = session
            .query_typed_one(sql, &[])
            .await
            .map_err(|error| Error::from_postgres("ask which process serves us", error))?;
        *pid = field(&row, "pid")?;
    }
    let name = |host: &Host| match &host.name {
        HostName::Tcp(name) => name.clone(),
        HostName::Unix(_) => String::new(),
    };
    Ok(Route {
        hosts: conninfo.hosts.iter().map(name).collect(),
        ports: conninfo.hosts.iter().map(|host| host.port).collect(),
        greeted_by: session.backend_pid(),
        served_by,
    })
}

const SETTINGS: &str = "
SELECT s.name, s.setting FROM pg_catalog.pg_settings s
WHERE s.setting IS NOT NULL AND s.name IN (
  'autovacuum_max_workers', 'idle_replication_slot_timeout', 'max_connections', 'max_locks_per_transaction',
  'max_prepared_transactions', 'max_slot_wal_keep_size', 'max_wal_senders', 'max_worker_processes',
  'shared_preload_libraries')";

const STORED: &str = "
SELECT r.rolname, s.setdatabase <> 0 AS is_of_database,
       s.setrole = 0 OR coalesce(r.rolname = current_user, false) AS is_ours, c.setting
FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
  CROSS JOIN LATERAL unnest(s.setconfig) AS c(setting)
WHERE (s.setdatabase = 0 AND (s.setrole = 0 OR r.rolname = current_user))
   OR s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
ORDER BY 1, 2, 4";

/// Providers came with 15, and the column of their locale was renamed with 17.
fn locale_query(version: ServerVersion) -> String {
    let (provider, provider_locale, recorded, actual) = match version.major() {
        ..15 => ("'c'", "NULL::pg_catalog.text", "NULL::pg_catalog.text", "NULL::pg_catalog.text"),
        15 | 16 => (
            "d.datlocprovider::pg_catalog.text",
            "d.daticulocale::pg_catalog.text",
            "d.datcollversion::pg_catalog.text",
            "pg_catalog.pg_database_collation_actual_version(d.oid)",
        ),
        _ => (
            "d.datlocprovider::pg_catalog.text",
            "d.datlocale::pg_catalog.text",
            "d.datcollversion::pg_catalog.text",
            "pg_catalog.pg_database_collation_actual_version(d.oid)",
        ),
    };
    format!(
        "SELECT d.datcollate::pg_catalog.text, d.datctype::pg_catalog.text, {provider} AS provider,
                {provider_locale} AS provider_locale, {recorded} AS recorded, {actual} AS actual
         FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"
    )
}
