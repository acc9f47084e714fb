//! Owners, rights and comments of large objects: read on the source, set on the target, many by one statement.
//!
//! Hazard: a right that is not set is an application that fails at its first read. What the target refuses, or
//! cannot be asked for as a role is missing there, is counted and named, never dropped in silence.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Recovery, Result};
use crate::pg::{Identifier, quote_literal};
use crate::wire::Connection;

/// What the catalog says of the large objects in a range.
#[derive(Debug, Default)]
pub(super) struct Described {
    /// Objects by owner and list of rights; most share both with many others.
    groups: BTreeMap<(String, Option<String>), Vec<u32>>,
    /// The lists of rights, by what the catalog shows of them.
    lists: HashMap<String, Vec<Grant>>,
    comments: Vec<(u32, String)>,
    count: u64,
}

/// Rights that one role holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    /// `None` is PUBLIC.
    grantee: Option<String>,
    privilege: String,
    is_grantable: bool,
}

/// Roles of the target, and whether we may hand an object over to each.
#[derive(Debug, Default)]
pub(super) struct Roles(HashMap<String, bool>);

/// What the target would not take, and of how many objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Unmet {
    owners: BTreeMap<String, u64>,
    grantees: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
}

impl Unmet {
    pub(super) fn add(&mut self, other: Unmet) {
        let pairs = [
            (&mut self.owners, other.owners),
            (&mut self.grantees, other.grantees),
            (&mut self.refused, other.refused),
        ];
        for (here, there) in pairs {
            for (name, count) in there {
                *here.entry(name).or_default() += count;
            }
        }
    }

    pub(super) fn warnings(self) -> Vec<String> {
        let owners = self.owners.into_iter().map(|(owner, count)| {
            format!("{count} large objects belong to {owner} on the source; the target's role may not hand them over to it")
        });
        let grantees = self.grantees.into_iter().map(|(grantee, count)| {
            format!(
                "rights on {count} large objects are granted to {grantee}, a role that is not on the target"
            )
        });
        let refused = self.refused.into_iter().map(|(why, count)| {
            format!("{count} statements on owners, rights and comments of large objects were refused: {why}")
        });
        owners.chain(grantees).chain(refused).collect()
    }
}

impl Roles {
    pub(super) async fn probe(target: &mut Connection) -> Result<Roles> {
        // Since 16 membership alone does not let one become the role.
        let right = if target.version().major() >= 16 { "SET" } else { "MEMBER" };
        let rows = target
            .query(&format!(
                "SELECT r.rolname, pg_catalog.pg_has_role(r.oid, '{right}') AS may FROM pg_catalog.pg_roles r"
            ))
            .await?;
        let role =
            |row: &crate::wire::Row| Ok((row.require("rolname")?.to_owned(), row.require("may")? == "t"));
        Ok(Roles(rows.iter().map(role).collect::<Result<_>>()?))
    }
}

impl Described {
    /// Reads what the catalog says of objects `m` that fulfil the condition.
    pub(super) async fn read(source: &mut Connection, condition: &str) -> Result<Described> {
        let mut described = Described::default();
        let objects = format!(
            "SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner) AS owner, m.lomacl AS list, d.description AS comment
               FROM pg_catalog.pg_largeobject_metadata m
               LEFT JOIN pg_catalog.pg_description d
                 ON d.classoid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass AND d.objoid = m.oid AND d.objsubid = 0
              WHERE {condition} ORDER BY m.oid"
        );
        for row in &source.query(&objects).await? {
            let oid = row.require("oid")?.parse().unwrap_or_default();
            let list = row.get("list").map(str::to_owned);
            described.groups.entry((row.require("owner")?.to_owned(), list)).or_default().push(oid);
            if let Some(comment) = row.get("comment") {
                described.comments.push((oid, comment.to_owned()));
            }
            described.count += 1;
        }
        let lists = format!(
            "SELECT l.list, g.rolname AS grantee, a.grantee = 0 AS is_public, a.privilege_type, a.is_grantable
               FROM (SELECT DISTINCT ON (m.lomacl::pg_catalog.text) m.lomacl AS list
                       FROM pg_catalog.pg_largeobject_metadata m WHERE m.lomacl IS NOT NULL AND {condition}) l
              CROSS JOIN LATERAL pg_catalog.aclexplode(l.list) WITH ORDINALITY
                      AS a(grantor, grantee, privilege_type, is_grantable, number)
               LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
              ORDER BY a.number"
        );
        for row in &source.query(&lists).await? {
            let grantee = row.get("grantee").map(str::to_owned);
            // A role that was dropped may leave its rights behind.
            if grantee.is_none() && row.require("is_public")? != "t" {
                continue;
            }
            described.lists.entry(row.require("list")?.to_owned()).or_default().push(Grant {
                grantee,
                privilege: row.require("privilege_type")?.to_owned(),
                is_grantable: row.require("is_grantable")? == "t",
            });
        }
        Ok(described)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The statements that make the target's objects alike, in order: who hands an object over can do no more with it.
    fn statements(&self, roles: &Roles) -> (Vec<String>, Unmet) {
        let mut unmet = Unmet::default();
        let mut statements: Vec<String> = self
            .comments
            .iter()
            .map(|(oid, comment)| format!("COMMENT ON LARGE OBJECT {oid} IS {}", quote_literal(comment)))
            .collect();
        for ((owner, list), oids) in &self.groups {
            let may_own = roles.0.get(owner).copied().unwrap_or(false);
            if may_own {
                let role = Identifier::new(owner.as_str());
                statements.extend(oids.iter().map(|oid| format!("ALTER LARGE OBJECT {oid} OWNER TO {role}")));
            } else {
                *unmet.owners.entry(owner.clone()).or_default() += oids.len() as u64;
            }
            let Some(list) = list else { continue };
            let grants = self.lists.get(list).map(Vec::as_slice).unwrap_or_default();
            let on = oids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let is_owner = |grant: &&Grant| grant.grantee.as_ref() == Some(owner);
            for privilege in ["SELECT", "UPDATE"] {
                // An owner holds both from the beginning.
                let lacks = !grants.iter().filter(is_owner).any(|grant| grant.privilege == privilege);
                if lacks && may_own {
                    let role = Identifier::new(owner.as_str());
                    statements.push(format!("REVOKE {privilege} ON LARGE OBJECT {on} FROM {role}"));
                }
            }
            // What an owner may grant need not be written down, but can be.
            for grant in grants.iter().filter(|grant| !is_owner(grant) || (may_own && grant.is_grantable)) {
                let to = match &grant.grantee {
                    None => "PUBLIC".to_owned(),
                    Some(role) if roles.0.contains_key(role) => Identifier::new(role.as_str()).to_string(),
                    Some(role) => {
                        *unmet.grantees.entry(role.clone()).or_default() += oids.len() as u64;
                        continue;
                    }
                };
                let option = if grant.is_grantable { " WITH GRANT OPTION" } else { "" };
                statements.push(format!("GRANT {} ON LARGE OBJECT {on} TO {to}{option}", grant.privilege));
            }
        }
        (statements, unmet)
    }
}

/// Sets owners, rights and comments.
///
/// # Errors
/// `Connect`; what the server refuses is counted.
pub(super) async fn set(target: &mut Connection, described: &Described, roles: &Roles) -> Result<Unmet> {
    let (statements, mut unmet) = described.statements(roles);
    if statements.is_empty() {
        return Ok(unmet);
    }
    // Several statements in one query are one transaction and one round trip.
    let Err(error) = target.execute(&statements.join(";\n")).await else { return Ok(unmet) };
    if error.recovery() == Recovery::Retry {
        return Err(error);
    }
    for statement in &statements {
        match target.execute(statement).await {
            Ok(_) => {}
            Err(error) if error.recovery() == Recovery::Retry => return Err(error),
            Err(error) => {
                let why =
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                *unmet.refused.entry(nameless(&why)).or_default() += 1;
            }
        }
    }
    Ok(unmet)
}

/// The server's words without the object's number, so that a thousand refusals are one.
fn nameless(message: &str) -> String {
    message.split(' ').filter(|word| word.parse::<u32>().is_err()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantee: Option<&str>, privilege: &str, is_grantable: bool) -> Grant {
        Grant { grantee: grantee.map(str::to_owned), privilege: privilege.to_owned(), is_grantable }
    }

    fn described(owner: &str, grants: Vec<Grant>) -> Described {
        let key = (owner.to_owned(), Some("list".to_owned()));
        Described {
            groups: BTreeMap::from([(key, vec![7, 8])]),
            lists: HashMap::from([("list".to_owned(), grants)]),
            comments: vec![(7, "it's".to_owned())],
            count: 2,
        }
    }

    fn roles(names: &[(&str, bool)]) -> Roles {
        Roles(names.iter().map(|(name, may)| ((*name).to_owned(), *may)).collect())
    }

    #[test]
    fn objects_of_one_lot_share_their_statements() {
        let grants = vec![
            grant(Some("o"), "SELECT", false),
            grant(None, "SELECT", false),
            grant(Some("r"), "UPDATE", true),
        ];
        let (statements, unmet) = described("o", grants).statements(&roles(&[("o", true), ("r", false)]));
        assert_eq!(
            statements,
            [
                "COMMENT ON LARGE OBJECT 7 IS 'it''s'",
                "ALTER LARGE OBJECT 7 OWNER TO \"o\"",
                "ALTER LARGE OBJECT 8 OWNER TO \"o\"",
                "REVOKE UPDATE ON LARGE OBJECT 7, 8 FROM \"o\"",
                "GRANT SELECT ON LARGE OBJECT 7, 8 TO PUBLIC",
                "GRANT UPDATE ON LARGE OBJECT 7, 8 TO \"r\" WITH GRANT OPTION",
            ]
        );
        assert_eq!(unmet, Unmet::default());
    }

    #[test]
    fn what_cannot_be_set_is_counted_once_for_all() {
        let grants = vec![grant(Some("o"), "SELECT", false), grant(Some("gone"), "SELECT", false)];
        let (statements, unmet) = described("o", grants).statements(&roles(&[("o", false)]));
        assert_eq!(statements, ["COMMENT ON LARGE OBJECT 7 IS 'it''s'"]);
        let mut both = unmet.clone();
        both.add(unmet);
        let warnings = both.warnings();
        assert!(warnings[0].starts_with("4 large objects belong to o "), "{warnings:?}");
        assert!(warnings[1].starts_with("rights on 4 large objects are granted to gone,"), "{warnings:?}");
    }

    #[test]
    fn refusals_of_many_objects_are_one() {
        assert_eq!(nameless("must be owner of large object 16409"), "must be owner of large object");
    }
}
