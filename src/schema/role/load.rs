//! Reads a server's roles: a handful of queries, whatever their number.
//!
//! Hazard: `pg_authid` is hidden on nearly every service (P68), and some say that it may be read and then refuse;
//! so it is asked only where the server says so, and a refusal is an answer.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use super::facts::{
    Attribute, ClusterRoles, Label, Membership, MembershipOptions, ParameterGrant, Role, Stored, UserKind,
};
use crate::catalog::{field, row, rows};
use crate::error::Result;
use crate::pg::{Secret, SqlState};
use crate::schema::setting::Setting;
use crate::wire::Session;

/// Reads all there is to know.
///
/// # Errors
/// What the server or the connection says.
pub(super) async fn load(session: &Session) -> Result<ClusterRoles> {
    let server = row(session, "read who we are", SERVER).await?;
    let roles = load_roles(session, field(&server, "reads_passwords")?).await?;
    let mut by_oid: BTreeMap<u32, More> = BTreeMap::new();
    let mut settings_of_all = Vec::new();
    for row in &rows(session, "read the settings of roles", SETTINGS).await? {
        let config = field::<Vec<String>>(row, "setconfig")?;
        let settings = config.iter().filter_map(|config| Setting::from_config(config));
        match field::<u32>(row, "setrole")? {
            0 => settings_of_all.extend(settings),
            oid => by_oid.entry(oid).or_default().settings.extend(settings),
        }
    }
    for row in &rows(session, "read the security labels of roles", LABELS).await? {
        let label = Label { provider: field(row, "provider")?, label: field(row, "label")? };
        by_oid.entry(field(row, "objoid")?).or_default().labels.push(label);
    }
    let memberships = rows(session, "read memberships", MEMBERSHIPS).await?;
    let is_superuser: bool = field(&server, "rolsuper")?;
    Ok(ClusterRoles {
        version: session.version(),
        bootstrap: field(&server, "bootstrap")?,
        user: field(&server, "rolname")?,
        user_kind: if is_superuser { UserKind::Superuser } else { UserKind::Ordinary },
        reserved: reserved(&field::<String>(&server, "reserved")?),
        password_encryption: field(&server, "password_encryption")?,
        memberships: memberships.iter().map(membership).collect::<Result<_>>()?,
        parameters: load_parameters(session).await?,
        settings_of_all,
        roles: roles
            .into_iter()
            .map(|(oid, mut role)| {
                let more = by_oid.remove(&oid).unwrap_or_default();
                (role.settings, role.labels) = (more.settings, more.labels);
                (role.name.clone(), role)
            })
            .collect(),
    })
}

/// What other catalogs tell of a role.
#[derive(Default)]
struct More {
    settings: Vec<Setting>,
    labels: Vec<Label>,
}

/// Roles with their OIDs.
async fn load_roles(session: &Session, reads_passwords: bool) -> Result<Vec<(u32, Role)>> {
    let doing = "read roles";
    let (found, passwords) = match reads_passwords {
        false => (rows(session, doing, &roles_query(Passwords::Hidden)).await?, Passwords::Hidden),
        true => match rows(session, doing, &roles_query(Passwords::Readable)).await {
            Err(error) if error.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
                (rows(session, doing, &roles_query(Passwords::Hidden)).await?, Passwords::Hidden)
            }
            found => (found?, Passwords::Readable),
        },
    };
    found.iter().map(|row| Ok((field(row, "oid")?, role(row, passwords)?))).collect()
}

/// Whether `pg_authid` shows its verifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passwords {
    Readable,
    Hidden,
}

fn role(row: &Row, passwords: Passwords) -> Result<Role> {
    let mut attributes = BTreeSet::new();
    for attribute in Attribute::ALL {
        if field(row, attribute.column())? {
            attributes.insert(attribute);
        }
    }
    let password = match (passwords, field::<Option<String>>(row, "password")?) {
        (Passwords::Hidden, _) => Stored::Unreadable,
        (Passwords::Readable, None) => Stored::None,
        (Passwords::Readable, Some(verifier)) => Stored::Verifier(Secret::new(verifier)),
    };
    Ok(Role {
        name: field(row, "rolname")?,
        attributes,
        connection_limit: field(row, "rolconnlimit")?,
        valid_until: field(row, "valid_until")?,
        password,
        comment: field(row, "comment")?,
        settings: Vec::new(),
        labels: Vec::new(),
    })
}

fn membership(row: &Row) -> Result<Membership> {
    let inherit: Option<bool> = field(row, "inherit_option")?;
    let set: Option<bool> = field(row, "set_option")?;
    Ok(Membership {
        role: field(row, "role")?,
        member: field(row, "member")?,
        grantor: field(row, "grantor")?,
        admin: field(row, "admin_option")?,
        options: inherit.zip(set).map(|(inherit, set)| MembershipOptions { inherit, set }),
    })
}

async fn load_parameters(session: &Session) -> Result<Vec<ParameterGrant>> {
    if session.version().major() < 15 {
        return Ok(Vec::new());
    }
    let found = rows(session, "read rights on parameters", PARAMETERS).await?;
    let grant = |row: &Row| {
        Ok(ParameterGrant {
            parameter: field(row, "parname")?,
            grantee: field(row, "grantee")?,
            privilege: field(row, "privilege_type")?,
            grantable: field(row, "is_grantable")?,
        })
    };
    found.iter().map(grant).collect()
}

/// The names in a list with commas, quoted or not.
fn reserved(list: &str) -> Vec<String> {
    let names = list.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

const SERVER: &str = "
SELECT r.rolname, r.rolsuper,
       coalesce((SELECT b.rolname FROM pg_catalog.pg_roles b WHERE b.oid = 10), '')::pg_catalog.text AS bootstrap,
       coalesce(pg_catalog.current_setting('aiven.pg_security_agent_reserved_roles', true), '') AS reserved,
       pg_catalog.current_setting('password_encryption') AS password_encryption,
       pg_catalog.has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT') AS reads_passwords
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

fn roles_query(passwords: Passwords) -> String {
    let (password, authid) = match passwords {
        Passwords::Readable => ("a.rolpassword", "JOIN pg_catalog.pg_authid a ON a.oid = r.oid"),
        Passwords::Hidden => ("NULL", ""),
    };
    format!(
        "
SELECT r.oid, r.rolname, r.rolinherit, r.rolcanlogin, r.rolcreatedb, r.rolcreaterole, r.rolreplication,
       r.rolbypassrls, r.rolsuper, r.rolconnlimit, r.rolvaliduntil::pg_catalog.text AS valid_until,
       {password}::pg_catalog.text AS password,
       pg_catalog.shobj_description(r.oid, 'pg_authid') AS comment
FROM pg_catalog.pg_roles r {authid}
ORDER BY r.rolname"
    )
}

const SETTINGS: &str = "
SELECT s.setrole, s.setconfig FROM pg_catalog.pg_db_role_setting s WHERE s.setdatabase = 0 ORDER BY s.setrole";

const LABELS: &str = "
SELECT l.objoid, l.provider, l.label FROM pg_catalog.pg_shseclabel l
WHERE l.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass ORDER BY l.objoid, l.provider";

/// Options came with 16; read through jsonb, older servers answer NULL.
const MEMBERSHIPS: &str = "
SELECT r.rolname AS role, m.rolname AS member, g.rolname AS grantor, a.admin_option,
       (pg_catalog.to_jsonb(a) ->> 'inherit_option')::pg_catalog.bool AS inherit_option,
       (pg_catalog.to_jsonb(a) ->> 'set_option')::pg_catalog.bool AS set_option
FROM pg_catalog.pg_auth_members a
  JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
  JOIN pg_catalog.pg_roles m ON m.oid = a.member
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantor
ORDER BY r.rolname, m.rolname, g.rolname";

const PARAMETERS: &str = "
SELECT p.parname, g.rolname AS grantee, x.privilege_type, x.is_grantable
FROM pg_catalog.pg_parameter_acl p
  CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
WHERE x.grantee <> 10
ORDER BY p.parname, g.rolname, x.privilege_type";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_list_of_reserved_roles() {
        assert_eq!(reserved("postgres, \"My role\",,avn"), ["postgres", "My role", "avn"]);
        assert!(reserved("").is_empty());
    }
}
