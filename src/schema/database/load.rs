//! Reads the databases of a server, tolerant of what the catalog gained from 10 to 18.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::{DatabaseDefinition, DatabaseLocale, DatabaseRight, DatabaseSetting, LocaleProvider, RightsKind};
use crate::catalog::{field, rows};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::setting::Setting;
use crate::wire::Session;

/// Every database but `template0` and `template1`, by name; the services' own, and those that let nobody in, are
/// among them.
///
/// # Errors
/// What the server or the connection says; `Protocol` for a locale provider that is not known yet.
pub async fn read_databases(source: &Session) -> Result<Vec<DatabaseDefinition>> {
    let mut databases: BTreeMap<String, DatabaseDefinition> = BTreeMap::new();
    for row in &rows(source, "read databases", DATABASES).await? {
        let definition = definition(row)?;
        databases.insert(definition.name.clone(), definition);
    }
    for row in &rows(source, "read the rights on databases", RIGHTS).await? {
        if let Some(database) = databases.get_mut(field::<&str>(row, "datname")?) {
            database.rights.push(DatabaseRight {
                grantor: field(row, "grantor")?,
                grantee: field(row, "grantee")?,
                privilege: field(row, "privilege_type")?,
                grantable: field(row, "is_grantable")?,
            });
        }
    }
    for row in &rows(source, "read the settings of databases", SETTINGS).await? {
        let Some(database) = databases.get_mut(field::<&str>(row, "datname")?) else { continue };
        let role: Option<String> = field(row, "rolname")?;
        for config in field::<Vec<String>>(row, "setconfig")? {
            let setting = Setting::from_config(&config);
            let setting = setting.map(|setting| DatabaseSetting { role: role.clone(), setting });
            database.settings.extend(setting);
        }
    }
    for row in &rows(source, "read the security labels of databases", LABELS).await? {
        if let Some(database) = databases.get_mut(field::<&str>(row, "datname")?) {
            database.labels.push((field(row, "provider")?, field(row, "label")?));
        }
    }
    Ok(databases.into_values().collect())
}

fn definition(row: &Row) -> Result<DatabaseDefinition> {
    let provider = match field::<Option<&str>>(row, "provider")? {
        None | Some("c") => LocaleProvider::Libc,
        Some("i") => LocaleProvider::Icu,
        Some("b") => LocaleProvider::Builtin,
        Some(other) => {
            return Err(Error::new(ErrorKind::Protocol, "read databases")
                .because(format!("locale provider {other:?} is not known")));
        }
    };
    let has_default_rights: bool = field(row, "has_default_rights")?;
    Ok(DatabaseDefinition {
        name: field(row, "datname")?,
        owner: field(row, "owner")?,
        bootstrap: field(row, "bootstrap")?,
        encoding: field(row, "encoding")?,
        locale: DatabaseLocale {
            provider,
            collate: field(row, "datcollate")?,
            ctype: field(row, "datctype")?,
            name: field(row, "locale")?,
            rules: field(row, "rules")?,
        },
        tablespace: field(row, "spcname")?,
        allow_connections: field(row, "datallowconn")?,
        is_template: field(row, "datistemplate")?,
        connection_limit: field(row, "datconnlimit")?,
        comment: field(row, "comment")?,
        rights: Vec::new(),
        rights_kind: if has_default_rights { RightsKind::Default } else { RightsKind::Explicit },
        settings: Vec::new(),
        labels: Vec::new(),
    })
}

/// The provider came with 15, its locale was `daticulocale` until 17, rules came with 16. A limit of -2 marks
/// what a broken DROP DATABASE has left.
const DATABASES: &str = "
SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba) AS owner,
       coalesce((SELECT b.rolname FROM pg_catalog.pg_roles b WHERE b.oid = 10), '')::pg_catalog.text AS bootstrap,
       pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
       d.datcollate::pg_catalog.text AS datcollate, d.datctype::pg_catalog.text AS datctype,
       pg_catalog.to_jsonb(d) ->> 'datlocprovider' AS provider,
       coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale') AS locale,
       pg_catalog.to_jsonb(d) ->> 'daticurules' AS rules,
       s.spcname, d.datallowconn, d.datistemplate, d.datconnlimit,
       pg_catalog.shobj_description(d.oid, 'pg_database') AS comment,
       d.datacl IS NULL AS has_default_rights
FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace s ON s.oid = d.dattablespace
WHERE d.datname NOT IN ('template0', 'template1') AND d.datconnlimit <> -2
ORDER BY d.datname";

/// In the order of the list itself, in which whoever grants on has been granted to before.
const RIGHTS: &str = "
SELECT d.datname, pg_catalog.pg_get_userbyid(x.grantor) AS grantor,
       CASE WHEN x.grantee <> 0 THEN pg_catalog.pg_get_userbyid(x.grantee) END AS grantee,
       x.privilege_type, x.is_grantable
FROM pg_catalog.pg_database d
  CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba)))
    WITH ORDINALITY x(grantor, grantee, privilege_type, is_grantable, at)
ORDER BY d.datname, x.at";

const SETTINGS: &str = "
SELECT d.datname, r.rolname, s.setconfig
FROM pg_catalog.pg_db_role_setting s
  JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
WHERE s.setrole = 0 OR r.oid IS NOT NULL
ORDER BY d.datname, r.rolname NULLS FIRST";

const LABELS: &str = "
SELECT d.datname, l.provider, l.label
FROM pg_catalog.pg_shseclabel l JOIN pg_catalog.pg_database d ON d.oid = l.objoid
WHERE l.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
ORDER BY d.datname, l.provider";
