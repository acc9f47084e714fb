//! Reads which extensions a database has, which it could have, and tries what only a try tells.
//!
//! Hazard: a control file, an allow-list and a role's attributes each tell half of whether CREATE EXTENSION will
//! work (P78). So it is run and rolled back, but not for extensions whose scripts reach beyond the transaction.

use std::collections::HashMap;

use crate::catalog::{Capabilities, field, row, rows};
use crate::error::Result;
use crate::pg::ServerVersion;
use crate::precheck::extension::reaches_beyond;
use crate::precheck::facts::{
    AvailableExtension, Installable, InstalledExtension, SourceFacts, TargetFacts, Trial,
};
use crate::precheck::trial::try_extension;
use crate::wire::Session;

/// Extensions of the session's database, by name; `plpgsql` left out.
pub(super) async fn installed(session: &Session) -> Result<Vec<(String, InstalledExtension)>> {
    let found = rows(session, "list extensions", INSTALLED).await?;
    let read = |row| {
        let there = InstalledExtension { version: field(row, "extversion")?, schema: field(row, "nspname")? };
        Ok((field(row, "extname")?, there))
    };
    found.iter().map(read).collect()
}

/// Extensions that its server could create.
pub(super) async fn available(
    session: &Session,
    version: ServerVersion,
) -> Result<HashMap<String, AvailableExtension>> {
    let found = rows(session, "list extensions that can be created", &available_query(version)).await?;
    let read = |row| {
        let available = AvailableExtension {
            default_version: field(row, "default_version")?,
            versions: field(row, "versions")?,
            is_trusted: field(row, "is_trusted")?,
        };
        Ok((field(row, "name")?, available))
    };
    found.iter().map(read).collect()
}

/// Tries those of the source's extensions of which it is not plain that our role may create them.
pub(super) async fn tried(
    session: &Session,
    source: &SourceFacts,
    target: &TargetFacts,
) -> Result<HashMap<String, Trial>> {
    let may = &target.server.may;
    let mut trials = HashMap::new();
    if may.is_superuser || may.in_recovery {
        return Ok(trials);
    }
    for (name, _) in source.extensions.iter().filter(|(name, _)| !target.installed.contains_key(name)) {
        let Some(offer) = target.extensions.get(name) else { continue };
        let is_plain = may.may_create_in_database && offer.is_trusted;
        if !is_plain && !reaches_beyond(name) {
            let schema = source.extension_schemas.get(name).map_or("public", String::as_str);
            trials.insert(name.clone(), try_extension(session, name, schema).await?);
        }
    }
    Ok(trials)
}

/// Whether `aiven_extras` can be had, by a role that may not publish whatever it likes (P05).
pub(super) async fn aiven_extras(session: &Session, may: &Capabilities) -> Result<Installable> {
    if may.is_superuser || may.publishes_through_aiven_extras || may.in_recovery {
        return Ok(Installable::No);
    }
    let found = row(session, "look for aiven_extras", AIVEN_EXTRAS).await?;
    if !field::<bool>(&found, "is_available")? {
        return Ok(Installable::No);
    }
    Ok(match try_extension(session, "aiven_extras", "public").await? {
        Trial::Allowed => Installable::Yes,
        Trial::NotTried | Trial::Refused { .. } => Installable::No,
    })
}

const INSTALLED: &str = "
SELECT e.extname::pg_catalog.text, e.extversion, n.nspname::pg_catalog.text
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname <> 'plpgsql' ORDER BY e.extname";

const AIVEN_EXTRAS: &str = "
SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions a
               WHERE a.name = 'aiven_extras' AND a.installed_version IS NULL) AS is_available";

/// Trust came with 13; it is that of the version that CREATE EXTENSION takes.
fn available_query(version: ServerVersion) -> String {
    let trusted = if version.major() >= 13 { "v.trusted" } else { "false" };
    format!(
        "
SELECT a.name::pg_catalog.text, coalesce(a.default_version, '') AS default_version,
       coalesce(pg_catalog.array_agg(v.version) FILTER (WHERE v.version IS NOT NULL), '{{}}') AS versions,
       coalesce(pg_catalog.bool_or({trusted}) FILTER (WHERE v.version = a.default_version), false) AS is_trusted
FROM pg_catalog.pg_available_extensions a
  LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = a.name
GROUP BY a.name, a.default_version"
    )
}
