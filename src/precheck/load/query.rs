//! The queries behind [`Objects`]: fully qualified, one for each kind of object, the same shape from 10 on.
//!
//! [`Objects`]: crate::precheck::objects::Objects

use crate::catalog::USER_SCHEMA;
use crate::pg::ServerVersion;

/// Not a member of an extension.
fn own(catalog: &str, object: &str) -> String {
    format!(
        "NOT EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass
                     AND m.objid = {object} AND m.deptype = 'e')"
    )
}

pub(super) fn sizes() -> String {
    format!(
        "
SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS database_bytes,
       pg_catalog.pg_relation_size('pg_catalog.pg_largeobject'::pg_catalog.regclass) AS large_object_bytes,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {USER_SCHEMA}) AS lockable,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata m
        WHERE pg_catalog.current_setting('is_superuser') = 'off'
          AND pg_catalog.current_setting('lo_compat_privileges') = 'off'
          AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a
                          WHERE a.privilege_type = 'SELECT'
                            AND CASE a.grantee WHEN 0 THEN true ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END)
       ) AS unreadable"
    )
}

/// By pages of the catalog: measuring would wait for an index that is being built anew.
pub(super) fn index_pages() -> String {
    format!(
        "
SELECT i.indrelid,
       pg_catalog.sum(x.relpages)::pg_catalog.int8 * pg_catalog.current_setting('block_size')::pg_catalog.int8 AS bytes
FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {USER_SCHEMA}
GROUP BY i.indrelid"
    )
}

pub(super) fn language_uses() -> String {
    let own = own("pg_proc", "p.oid");
    format!(
        "
SELECT l.lanname, l.lanpltrusted, pg_catalog.count(*) AS functions,
       pg_catalog.min(n.nspname::pg_catalog.text || '.' || p.proname::pg_catalog.text) AS example
FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE l.lanname NOT IN ('internal', 'c', 'sql') AND {USER_SCHEMA} AND {own}
GROUP BY l.lanname, l.lanpltrusted ORDER BY l.lanname"
    )
}

/// P65. What has no schema is the user's from OID 16384 on (access/transam.h, FirstNormalObjectId).
pub(super) fn for_superusers() -> String {
    let schemaless = |catalog: &str, column: &str, what: &str| {
        format!(
            "SELECT '{what} ' || x.{column}::pg_catalog.text FROM pg_catalog.{catalog} x
             WHERE x.oid >= 16384 AND {}",
            own(catalog, "x.oid")
        )
    };
    let in_schema = |catalog: &str, prefix: &str, what: &str, condition: &str| {
        format!(
            "SELECT '{what} ' || n.nspname::pg_catalog.text || '.' || x.{prefix}name::pg_catalog.text
             FROM pg_catalog.{catalog} x JOIN pg_catalog.pg_namespace n ON n.oid = x.{prefix}namespace
             WHERE {condition} AND {USER_SCHEMA} AND {}",
            own(catalog, "x.oid")
        )
    };
    let array = "NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = x.oid)";
    let machine =
        "x.prolang IN (SELECT l.oid FROM pg_catalog.pg_language l WHERE l.lanname IN ('c', 'internal'))";
    let each = [
        in_schema("pg_type", "typ", "type", &format!("x.typtype = 'b' AND x.typisdefined AND {array}")),
        in_schema("pg_proc", "pro", "function", machine),
        in_schema("pg_opclass", "opc", "operator class", "true"),
        in_schema("pg_ts_parser", "prs", "text search parser", "true"),
        in_schema("pg_ts_template", "tmpl", "text search template", "true"),
        schemaless("pg_am", "amname", "access method"),
        schemaless("pg_language", "lanname", "language"),
        schemaless("pg_foreign_data_wrapper", "fdwname", "foreign-data wrapper"),
        format!(
            "SELECT 'cast of ' || pg_catalog.format_type(x.castsource, NULL) || ' to '
                    || pg_catalog.format_type(x.casttarget, NULL)
             FROM pg_catalog.pg_cast x WHERE x.oid >= 16384 AND x.castmethod = 'b' AND {}",
            own("pg_cast", "x.oid")
        ),
    ];
    format!("SELECT o.name FROM ({}) AS o(name) ORDER BY 1", each.join("\nUNION ALL "))
}

pub(super) fn event_triggers() -> String {
    format!(
        "SELECT t.evtname AS name FROM pg_catalog.pg_event_trigger t WHERE {} ORDER BY 1",
        own("pg_event_trigger", "t.oid")
    )
}

pub(super) fn not_valid() -> String {
    format!(
        "
SELECT n.nspname, c.relname, k.conname AS name
FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT k.convalidated AND c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY 1, 2, 3"
    )
}

pub(super) fn ordering_constraints() -> String {
    format!(
        "
SELECT c.oid, n.nspname, c.relname, k.conname AS name, k.contype = 'x' AS is_exclusion
FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (k.contype = 'x' OR k.contype IN ('p', 'u') AND k.condeferrable) AND c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY 2, 3, 4"
    )
}

/// What is evaluated while rows are loaded or indexes built: not defaults, for every column is given.
pub(super) fn functions_called_by_rows(version: ServerVersion) -> String {
    let generated = match version.major() {
        ..12 => "false".to_owned(),
        _ => "EXISTS (SELECT FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_attribute a
                        ON a.attrelid = f.adrelid AND a.attnum = f.adnum
                      WHERE f.oid = d.objid AND a.attgenerated <> '')"
            .to_owned(),
    };
    format!(
        "
SELECT DISTINCT n.nspname::pg_catalog.text || '.' || p.proname::pg_catalog.text || '('
         || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' AS name, p.prosrc
FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND l.lanname IN ('sql', 'plpgsql') AND {USER_SCHEMA}
  AND (d.classid IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass)
       OR d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND {generated}
       OR d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND EXISTS (
            SELECT FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
            WHERE r.oid = d.objid AND c.relkind = 'm'))
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS s(setting) WHERE s.setting LIKE 'search\\_path=%')
  AND {own}
ORDER BY 1",
        own = own("pg_proc", "p.oid")
    )
}

pub(super) fn names() -> String {
    format!(
        "
SELECT p.proname::pg_catalog.text AS name
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE {USER_SCHEMA}
UNION
SELECT t.typname::pg_catalog.text
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype IN ('b', 'd', 'e', 'r') AND {USER_SCHEMA}"
    )
}

pub(super) fn collations() -> String {
    format!(
        "
SELECT DISTINCT o.collname::pg_catalog.text AS name
FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
WHERE o.collnamespace = 'pg_catalog'::pg_catalog.regnamespace AND o.collname NOT IN ('default', 'C', 'POSIX')
  AND a.attnum > 0 AND NOT a.attisdropped AND {USER_SCHEMA}"
    )
}

/// Only of those in use: there are hundreds, and for the version of each the server opens a file of ICU's.
pub(super) fn changed_collations() -> String {
    format!(
        "
SELECT o.collname::pg_catalog.text AS name
FROM (SELECT o.oid, o.collname, o.collversion FROM pg_catalog.pg_collation o WHERE EXISTS (
  SELECT FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE a.attcollation = o.oid AND a.attnum > 0 AND NOT a.attisdropped AND {USER_SCHEMA})
  OFFSET 0) o
WHERE o.collversion <> pg_catalog.pg_collation_actual_version(o.oid)
ORDER BY 1"
    )
}

pub(super) fn text_ranges() -> String {
    format!(
        "
SELECT n.nspname, c.relname
FROM pg_catalog.pg_partitioned_table p
  JOIN pg_catalog.pg_class c ON c.oid = p.partrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE p.partstrat = 'r' AND {USER_SCHEMA} AND EXISTS (
  SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = c.oid AND a.attnum = ANY (p.partattrs) AND t.typcategory = 'S')
ORDER BY 1, 2"
    )
}

pub(super) fn elsewhere() -> String {
    format!(
        "
SELECT n.nspname, c.relname, s.spcname AS name
FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
WHERE c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY 3, 1, 2"
    )
}

pub(super) fn with_oids() -> String {
    format!(
        "
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relhasoids AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY 1, 2"
    )
}

pub(super) const LABEL_PROVIDERS: &str = "
SELECT l.provider AS name FROM pg_catalog.pg_seclabel l UNION SELECT s.provider FROM pg_catalog.pg_shseclabel s";

pub(super) const POSTFIX_OPERATORS: &str = "
SELECT o.oprname::pg_catalog.text AS name FROM pg_catalog.pg_operator o
WHERE o.oid >= 16384 AND o.oprleft <> 0 AND o.oprright = 0 AND o.oprcode <> 0";
