//! Owners, rights and default privileges: whether the two ends agree on who may do what.
//!
//! Hazard: a restore that ends well may still have left a table with another owner, or a function open to everyone
//! (P71). The two servers differ by nature, too: in what the bootstrap superuser is called, in which rights there
//! are (MAINTAIN from 17 on), in what PUBLIC may do in schema `public` (P72). So rights are compared as what was
//! granted and revoked since the object was made, with the owner called "the owner".
//!
//! Everything is asked anew, in one query per kind of object, whatever their number.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::Owners;
use crate::error::{Error, Result, Side};
use crate::wire::Session;

/// Who owns an object, and how its rights deviate from those it was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Access {
    owner: String,
    /// `+bob SELECT`, `-PUBLIC EXECUTE`.
    deviations: Vec<String>,
}

/// Compares the two databases; each difference is a sentence. Objects that only one of them has are not looked at:
/// that is for [`compare_database`](super::compare_database) and the catalog to say. Owners are compared if they
/// were to be kept.
///
/// # Errors
/// What a server or a connection says.
pub async fn compare_rights(source: &Session, target: &Session, owners: Owners) -> Result<Vec<String>> {
    let (source, target) =
        tokio::try_join!(async { load(source).await.map_err(|error| error.on(Side::Source)) }, async {
            load(target).await.map_err(|error| error.on(Side::Target))
        },)?;
    Ok(differences(&source, &target, owners))
}

fn differences(
    source: &BTreeMap<String, Access>,
    target: &BTreeMap<String, Access>,
    owners: Owners,
) -> Vec<String> {
    let mut found = Vec::new();
    let objects: BTreeSet<&String> = source.keys().chain(target.keys()).collect();
    for object in objects {
        let (source, target) = match (source.get(object), target.get(object)) {
            (Some(source), Some(target)) => (source.clone(), target.clone()),
            // Only those that differ have an entry, or the entry is what differs.
            (Some(one), None) if one.is_entered_for_its_rights() && !one.lacks_whole(source, target) => {
                (one.clone(), one.untouched())
            }
            (None, Some(one)) if one.is_entered_for_its_rights() && !one.lacks_whole(target, source) => {
                (one.untouched(), one.clone())
            }
            (only, _) => {
                // They are counted by owner.
                if object.starts_with(LARGE_OBJECTS) && owners == Owners::Kept {
                    let side = if only.is_some() { Side::Source } else { Side::Target };
                    found.push(format!("{object}: on the {side} only"));
                }
                continue;
            }
        };
        if source.owner != target.owner && owners == Owners::Kept {
            found.push(format!("{object}: owned by {} on the target, not by {}", target.owner, source.owner));
        }
        for (these, others, side) in [
            (&source.deviations, &target.deviations, Side::Source),
            (&target.deviations, &source.deviations, Side::Target),
        ] {
            let only: Vec<&str> =
                these.iter().filter(|one| !others.contains(one)).map(String::as_str).collect();
            if !only.is_empty() {
                found.push(format!("{object}: {} on the {side} only", only.join(", ")));
            }
        }
    }
    found
}

impl Access {
    /// Whether an object without deviations would have no entry.
    fn is_entered_for_its_rights(&self) -> bool {
        self.owner == SYSTEM || [OF_TABLE, BY_DEFAULT].iter().any(|start| self.owner.starts_with(start))
    }

    /// Whether what it is a part of, a table or a schema, is missing on the other side: then so is the part.
    fn lacks_whole(&self, here: &BTreeMap<String, Access>, there: &BTreeMap<String, Access>) -> bool {
        let wholes = if let Some(table) = self.owner.strip_prefix(OF_TABLE) {
            ["table", "view", "materialized view"].map(|kind| format!("{kind} {table}")).to_vec()
        } else if let Some(schema) = self.owner.strip_prefix(BY_DEFAULT_IN) {
            vec![format!("schema {schema}")]
        } else {
            Vec::new()
        };
        // The system's and those of extensions may be on both sides without an entry.
        let is_missing = |whole: &String| {
            here.get(whole).is_some_and(|found| found.owner != SYSTEM) && !there.contains_key(whole)
        };
        wholes.iter().any(is_missing)
    }

    /// As if nobody had granted nor revoked anything.
    fn untouched(&self) -> Access {
        Access { owner: self.owner.clone(), deviations: Vec::new() }
    }
}

/// What stands for the owner of an object whose owner is not to be compared.
const SYSTEM: &str = "the system";
const OF_TABLE: &str = "that of ";
const BY_DEFAULT: &str = "whoever comes";
const BY_DEFAULT_IN: &str = "whoever comes in ";

const LARGE_OBJECTS: &str = "large objects";

async fn load(session: &Session) -> Result<BTreeMap<String, Access>> {
    let mut found = BTreeMap::new();
    for query in queries() {
        let rows = session.query_typed(&query, &[]).await;
        for row in rows.map_err(|error| Error::from_postgres("read owners and rights", error))? {
            let read = |error| Error::from_postgres("read owners and rights", error);
            let object: String = row.try_get("object").map_err(read)?;
            let owner = row.try_get("owner").map_err(read)?;
            let deviations = row.try_get("deviations").map_err(read)?;
            found.insert(object, Access { owner, deviations });
        }
    }
    Ok(found)
}

/// A kind of object, as its catalog `o` tells of it; every field but `catalog` is SQL.
struct Kind {
    /// What it is, for people.
    label: &'static str,
    catalog: &'static str,
    name: Name,
    owner: &'static str,
    /// Its rights; NULL for the defaults, and where there are none.
    acl: &'static str,
    /// The letter of `acldefault`.
    default: &'static str,
    /// The rights that `initdb` or an extension gave it.
    initial: &'static str,
    only: &'static str,
}

/// What an object is called.
enum Name {
    /// Nothing: there is only one.
    Only,
    /// A column's value.
    Plain(&'static str),
    /// A column's value, within the schema that another column gives.
    InSchema(&'static str, &'static str),
    /// Whatever the server calls that OID, within the schema that a column gives.
    Signature(&'static str, &'static str),
}

/// Kinds that have an owner and, the first eight of them, rights of their own.
const KINDS: [Kind; 16] = [
    Kind {
        only: "o.nspname !~ '^pg_(toast|temp)' AND o.nspname <> 'pgstream'",
        // What PUBLIC may do in it by default has changed with 15, and matters (P72).
        initial: "CASE WHEN o.nspname <> 'public' THEN i.initprivs END",
        ..kind("'schema'", "pg_namespace", Name::Plain("o.nspname"), "o.nspowner", "o.nspacl", "'n'")
    },
    Kind {
        only: "o.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')",
        ..kind(
            "CASE o.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                  ELSE 'table' END",
            "pg_class",
            Name::InSchema("o.relname", "o.relnamespace"),
            "o.relowner",
            "o.relacl",
            "CASE o.relkind WHEN 'S' THEN 's' ELSE 'r' END",
        )
    },
    kind(
        "'function'",
        "pg_proc",
        Name::Signature("pg_catalog.regprocedure", "o.pronamespace"),
        "o.proowner",
        "o.proacl",
        "'f'",
    ),
    Kind {
        // Arrays, multiranges and the row types of tables follow what they are made of.
        only: "NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = o.oid) AND o.typtype <> 'm'
               AND (o.typrelid = 0 OR EXISTS (
                 SELECT FROM pg_catalog.pg_class c WHERE c.oid = o.typrelid AND c.relkind = 'c'))",
        ..kind(
            "'type'",
            "pg_type",
            Name::InSchema("o.typname", "o.typnamespace"),
            "o.typowner",
            "o.typacl",
            "'T'",
        )
    },
    kind("'language'", "pg_language", Name::Plain("o.lanname"), "o.lanowner", "o.lanacl", "'l'"),
    kind(
        "'foreign-data wrapper'",
        "pg_foreign_data_wrapper",
        Name::Plain("o.fdwname"),
        "o.fdwowner",
        "o.fdwacl",
        "'F'",
    ),
    kind("'server'", "pg_foreign_server", Name::Plain("o.srvname"), "o.srvowner", "o.srvacl", "'S'"),
    Kind {
        only: "o.datname = pg_catalog.current_database()",
        // Under whatever name each of the two has: the pair is one database.
        ..kind("'the database'", "pg_database", Name::Only, "o.datdba", "o.datacl", "'d'")
    },
    bare("'collation'", "pg_collation", Name::InSchema("o.collname", "o.collnamespace"), "o.collowner"),
    bare("'conversion'", "pg_conversion", Name::InSchema("o.conname", "o.connamespace"), "o.conowner"),
    bare(
        "'operator'",
        "pg_operator",
        Name::Signature("pg_catalog.regoperator", "o.oprnamespace"),
        "o.oprowner",
    ),
    bare(
        "(SELECT m.amname || ' operator class' FROM pg_catalog.pg_am m WHERE m.oid = o.opcmethod)",
        "pg_opclass",
        Name::InSchema("o.opcname", "o.opcnamespace"),
        "o.opcowner",
    ),
    bare(
        "'text search configuration'",
        "pg_ts_config",
        Name::InSchema("o.cfgname", "o.cfgnamespace"),
        "o.cfgowner",
    ),
    bare(
        "'text search dictionary'",
        "pg_ts_dict",
        Name::InSchema("o.dictname", "o.dictnamespace"),
        "o.dictowner",
    ),
    bare("'statistics'", "pg_statistic_ext", Name::InSchema("o.stxname", "o.stxnamespace"), "o.stxowner"),
    bare("'event trigger'", "pg_event_trigger", Name::Plain("o.evtname"), "o.evtowner"),
];

const fn kind(
    label: &'static str,
    catalog: &'static str,
    name: Name,
    owner: &'static str,
    acl: &'static str,
    default: &'static str,
) -> Kind {
    Kind { label, catalog, name, owner, acl, default, initial: "i.initprivs", only: "true" }
}

/// A kind without rights.
const fn bare(label: &'static str, catalog: &'static str, name: Name, owner: &'static str) -> Kind {
    kind(label, catalog, name, owner, "NULL::pg_catalog.aclitem[]", "'r'")
}

fn queries() -> Vec<String> {
    let mut queries: Vec<String> = KINDS.iter().map(Kind::query).collect();
    queries.extend([columns(), default_privileges(), large_objects()]);
    queries
}

impl Kind {
    /// Objects of the user's with their owners; the system's and those of extensions only if their rights deviate,
    /// and without an owner: who made them is the server's business, or that of whoever made the extension.
    fn query(&self) -> String {
        let Kind { label, catalog, owner, acl, default, initial, only, .. } = self;
        let (name, namespace) = match &self.name {
            Name::Only => ("''".to_owned(), None),
            Name::Plain(name) => (format!("' ' || pg_catalog.quote_ident({name})"), None),
            Name::InSchema(name, namespace) => (
                format!(
                    "pg_catalog.concat(' ', pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident({name}))"
                ),
                Some(namespace),
            ),
            Name::Signature(registered, namespace) => {
                (format!("' ' || o.oid::{registered}::text"), Some(namespace))
            }
        };
        let (join, in_schema, is_system) = match namespace {
            Some(namespace) => (
                format!("JOIN pg_catalog.pg_namespace n ON n.oid = {namespace}"),
                "n.nspname !~ '^pg_(toast|temp)' AND n.nspname <> 'pgstream'",
                "n.nspname = 'information_schema' OR n.nspname ~ '^pg_'",
            ),
            None => (String::new(), "true", "o.oid < 16384 AND o.tableoid NOT IN (1262, 2615)"),
        };
        let base =
            format!("coalesce({initial}, pg_catalog.acldefault(({default})::pg_catalog.\"char\", {owner}))");
        let deviations = deviations(acl, &base, owner);
        let owner = role_name(owner, "0");
        format!(
            "
SELECT * FROM (
  SELECT pg_catalog.concat({label}, {name}) AS object,
         CASE WHEN m.objid IS NOT NULL OR {is_system} THEN '{SYSTEM}' ELSE {owner} END AS owner,
         {deviations} AS deviations
  FROM pg_catalog.{catalog} o {join}
    LEFT JOIN pg_catalog.pg_init_privs i ON i.classoid = o.tableoid AND i.objoid = o.oid AND i.objsubid = 0
    LEFT JOIN pg_catalog.pg_depend m
      ON m.classid = o.tableoid AND m.objid = o.oid AND m.deptype = 'e'
     AND m.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
  WHERE {only} AND {in_schema}
) a WHERE a.owner <> '{SYSTEM}' OR a.deviations <> '{{}}'"
        )
    }
}

/// Rights on single columns.
fn columns() -> String {
    let deviations =
        deviations("a.attacl", "coalesce(i.initprivs, pg_catalog.acldefault('c', c.relowner))", "c.relowner");
    format!(
        "
SELECT pg_catalog.concat('column ', pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(c.relname), '.',
                         pg_catalog.quote_ident(a.attname)) AS object,
       pg_catalog.concat('{OF_TABLE}', pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(c.relname)) AS owner,
       {deviations} AS deviations
FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_init_privs i
    ON i.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.objoid = c.oid AND i.objsubid = a.attnum
WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
  AND n.nspname !~ '^pg_(toast|temp)' AND n.nspname <> 'pgstream'"
    )
}

/// Those for one schema add to what a new object is made with; the others replace it.
fn default_privileges() -> String {
    let deviations = deviations(
        "d.defaclacl",
        "CASE WHEN d.defaclnamespace = 0
              THEN pg_catalog.acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole)
              END",
        "d.defaclrole",
    );
    format!(
        "
SELECT pg_catalog.concat('default privileges of ', {role}, ' for ',
         CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
              WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' WHEN 'L' THEN 'large objects'
              ELSE d.defaclobjtype::text END,
         CASE WHEN n.oid IS NOT NULL THEN pg_catalog.concat(' in schema ', pg_catalog.quote_ident(n.nspname)) END) AS object,
       CASE WHEN n.oid IS NULL THEN '{BY_DEFAULT}'
            ELSE pg_catalog.concat('{BY_DEFAULT_IN}', pg_catalog.quote_ident(n.nspname)) END AS owner,
       {deviations} AS deviations
FROM pg_catalog.pg_default_acl d LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace",
        role = role_name("d.defaclrole", "0"),
    )
}

/// There may be millions, nearly all alike: counted by owner and rights, with the sum of their OIDs.
fn large_objects() -> String {
    let deviations = deviations("o.lomacl", "pg_catalog.acldefault('L', o.lomowner)", "o.lomowner");
    format!(
        "
SELECT pg_catalog.concat('{LARGE_OBJECTS} of ', a.owner, ' with ',
                         coalesce(nullif(pg_catalog.array_to_string(a.deviations, ', '), ''), 'no grants'), ': ',
                         pg_catalog.count(*), ', the sum of their OIDs ', pg_catalog.sum(a.oid::pg_catalog.int8)) AS object,
       a.owner, a.deviations
FROM (SELECT o.oid, {owner} AS owner, {deviations} AS deviations FROM pg_catalog.pg_largeobject_metadata o) a
GROUP BY a.owner, a.deviations",
        owner = role_name("o.lomowner", "0"),
    )
}

/// What was granted (`+`) and revoked (`-`) since, as sorted text. A grantor is named if he is not the owner.
fn deviations(acl: &str, base: &str, owner: &str) -> String {
    let (grantee, grantor) = (role_name("x.grantee", owner), role_name("x.grantor", owner));
    let item = format!(
        "pg_catalog.concat({grantee}, ' ', x.privilege_type,
           CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END,
           CASE WHEN x.grantor NOT IN ({owner}, 10) THEN pg_catalog.concat(' granted by ', {grantor}) END)"
    );
    format!(
        "CASE WHEN {acl} IS NULL THEN '{{}}'::text[] ELSE ARRAY(
           SELECT changed.item FROM (
             (SELECT pg_catalog.concat('+', {item}) AS item FROM pg_catalog.aclexplode({acl}) x
              EXCEPT SELECT pg_catalog.concat('+', {item}) FROM pg_catalog.aclexplode({base}) x)
             UNION ALL
             (SELECT pg_catalog.concat('-', {item}) FROM pg_catalog.aclexplode({base}) x
              EXCEPT SELECT pg_catalog.concat('-', {item}) FROM pg_catalog.aclexplode({acl}) x)
           ) changed ORDER BY changed.item COLLATE pg_catalog.\"C\") END"
    )
}

/// A role's name: the bootstrap superuser has OID 10 on every server, and another name on many.
fn role_name(oid: &str, owner: &str) -> String {
    format!(
        "CASE WHEN {oid} = 0 THEN 'PUBLIC' WHEN {oid} = {owner} THEN 'the owner'
              WHEN {oid} = 10 THEN 'the bootstrap superuser'
              ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid({oid})) END"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(owner: &str, deviations: &[&str]) -> Access {
        Access {
            owner: owner.to_owned(),
            deviations: deviations.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn of(entries: &[(&str, Access)]) -> BTreeMap<String, Access> {
        entries.iter().map(|(object, access)| ((*object).to_owned(), access.clone())).collect()
    }

    #[test]
    fn says_who_differs_and_where() {
        let source = of(&[("table a.b", access("app", &["+bob SELECT", "-PUBLIC EXECUTE"]))]);
        let target = of(&[("table a.b", access("me", &["+bob SELECT", "+eve SELECT"]))]);
        assert_eq!(
            differences(&source, &target, Owners::Kept),
            [
                "table a.b: owned by me on the target, not by app",
                "table a.b: -PUBLIC EXECUTE on the source only",
                "table a.b: +eve SELECT on the target only",
            ]
        );
        assert!(differences(&source, &source, Owners::Kept).is_empty());
        assert_eq!(differences(&source, &target, Owners::Dropped).len(), 2);
    }

    #[test]
    fn what_was_left_behind_takes_its_parts_with_it() {
        let source = of(&[
            ("column a.b.c", access("that of a.b", &["+bob SELECT"])),
            ("column a.kept.c", access("that of a.kept", &["+bob SELECT"])),
            ("column pg_catalog.pg_class.oid", access("that of pg_catalog.pg_class", &["+bob SELECT"])),
            (
                "default privileges of app for tables in schema s",
                access("whoever comes in s", &["+bob SELECT"]),
            ),
            ("schema s", access("app", &[])),
            ("table a.b", access("app", &[])),
            ("table a.kept", access("app", &[])),
        ]);
        assert_eq!(
            differences(&source, &of(&[("table a.kept", access("app", &[]))]), Owners::Kept),
            [
                "column a.kept.c: +bob SELECT on the source only",
                "column pg_catalog.pg_class.oid: +bob SELECT on the source only",
            ]
        );
    }

    #[test]
    fn objects_of_one_side_are_no_difference_of_rights_but_grants_for_objects_to_come_are() {
        let source = of(&[
            ("table a.b", access("app", &["+bob SELECT"])),
            ("default privileges of app for tables", access(BY_DEFAULT, &["+bob SELECT"])),
        ]);
        assert_eq!(
            differences(&source, &of(&[]), Owners::Kept),
            ["default privileges of app for tables: +bob SELECT on the source only"]
        );
        assert_eq!(differences(&of(&[]), &source, Owners::Kept).len(), 1);
    }
}
