//! Reads which roles matter to the source's database, and how old its cluster's transaction ids are.

use crate::catalog::{field, row, rows};
use crate::error::Result;
use crate::precheck::facts::Age;
use crate::wire::Session;

/// Roles in use.
pub(super) struct RolesInUse {
    pub(super) names: Vec<String>,
    pub(super) exalted: Vec<(String, Vec<String>)>,
    pub(super) login: u64,
    pub(super) reads_passwords: bool,
}

pub(super) async fn in_use(session: &Session) -> Result<RolesInUse> {
    let found = rows(session, "list roles that own or hold grants", ROLES_IN_USE).await?;
    let mut roles = RolesInUse {
        names: Vec::new(),
        exalted: Vec::new(),
        login: 0,
        reads_passwords: field(&row(session, "ask whether passwords may be read", PASSWORDS).await?, "may")?,
    };
    for row in &found {
        let name: String = field(row, "rolname")?;
        let attributes: Vec<String> = field(row, "attributes")?;
        roles.login += u64::from(field::<bool>(row, "rolcanlogin")?);
        if !attributes.is_empty() {
            roles.exalted.push((name.clone(), attributes));
        }
        roles.names.push(name);
    }
    Ok(roles)
}

pub(super) async fn age(session: &Session) -> Result<Age> {
    let found = row(session, "read the age of the cluster's transaction ids", AGE).await?;
    let number = |column| field::<i32>(&found, column).map(|age| u64::from(age.max(0).unsigned_abs()));
    Ok(Age { database: field(&found, "datname")?, xids: number("xids")?, multixacts: number("multixacts")? })
}

const PASSWORDS: &str = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS may";

/// The oldest by either count.
const AGE: &str = "
SELECT d.datname::pg_catalog.text, pg_catalog.age(d.datfrozenxid) AS xids, pg_catalog.mxid_age(d.datminmxid) AS multixacts
FROM pg_catalog.pg_database d
ORDER BY greatest(pg_catalog.age(d.datfrozenxid), pg_catalog.mxid_age(d.datminmxid)) DESC, d.datname LIMIT 1";

/// Roles that matter to this database's objects. The bootstrap superuser's ownership is not recorded in
/// `pg_shdepend`; it exists on every server, under some name, and the restore maps it.
const ROLES_IN_USE: &str = "
SELECT DISTINCT r.rolname, r.rolcanlogin,
       pg_catalog.array_remove(ARRAY[CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
         CASE WHEN r.rolreplication THEN 'REPLICATION' END,
         CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END], NULL) AS attributes
FROM pg_catalog.pg_shdepend d
  JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
  JOIN pg_catalog.pg_database b ON b.datname = pg_catalog.current_database()
WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.deptype IN ('o', 'a', 'r')
  AND (d.dbid = b.oid
       OR d.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND d.objid = b.oid)
  AND r.rolname !~ '^pg_'
ORDER BY r.rolname";
