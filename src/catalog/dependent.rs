//! What cannot be, or is not the same, without what the filters leave behind.
//!
//! Hazard: `pg_depend` speaks of parts (a default, a view's rule, a row type, an array type), people speak of
//! tables and views. So each part counts as what it is part of; and what merely goes with its table when that
//! is left out (its index, its trigger) is no cut. Function bodies in quotes are invisible to the catalogs.
//! Docs: `catalog-pg-depend`.

use crate::catalog::query::{self, field};
use crate::catalog::{Catalog, LeftBehind};
use crate::error::Result;
use crate::pg::quote_literal;
use crate::wire::Session;

/// An object that is carried and needs one that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// The object, as `pg_describe_object` puts it: `view app.v`.
    pub object: String,
    /// What it is.
    pub kind: DependentKind,
    /// Why what it needs is not there; the gravest reason.
    pub cause: Cause,
    /// What it needs, perhaps by way of others: one of several.
    pub needs: String,
}

/// As far as it matters for what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependentKind {
    /// Holds rows: what is not created cannot be filled.
    Table,
    /// Shows other tables' rows.
    View,
    /// Anything else.
    Other,
}

/// Why something is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its schema is left out.
    Schema,
    /// Its extension is left out.
    Extension,
    /// The table is there and empty.
    Rows,
}

/// Reads what depends on what is left behind. Foreign keys are left to the catalog's own list of them.
///
/// # Errors
/// `Sql` or `Connect`.
pub async fn read_dependents(
    session: &Session,
    catalog: &Catalog,
    left: &LeftBehind,
) -> Result<Vec<Dependent>> {
    if left.is_nothing() {
        return Ok(Vec::new());
    }
    let sql = statement(catalog, left);
    let found = query::rows(session, "read what depends on what is left behind", &sql).await?;
    found
        .iter()
        .map(|row| {
            Ok(Dependent {
                object: field(row, "object")?,
                kind: match field::<&str>(row, "kind")? {
                    "r" | "p" | "f" => DependentKind::Table,
                    "v" | "m" => DependentKind::View,
                    _ => DependentKind::Other,
                },
                cause: match field::<&str>(row, "cause")? {
                    "1 schema" => Cause::Schema,
                    "2 extension" => Cause::Extension,
                    _ => Cause::Rows,
                },
                needs: field(row, "needs")?,
            })
        })
        .collect()
}

fn statement(catalog: &Catalog, left: &LeftBehind) -> String {
    let names = |names: &std::collections::BTreeSet<String>| {
        let quoted: Vec<String> = names.iter().map(|name| quote_literal(name)).collect();
        format!("ARRAY[{}]::pg_catalog.text[]", quoted.join(", "))
    };
    // Views over tables of extensions are the extension's affair.
    let rows: Vec<String> = catalog
        .tables
        .iter()
        .filter(|table| table.extension.is_none() && left.rows.contains(&table.oid))
        .map(|table| table.oid.to_string())
        .collect();
    let rows = format!("'{{{}}}'::pg_catalog.oid[]", rows.join(","));
    DEPENDENTS
        .replace("$schemas", &names(&left.schemas))
        .replace("$extensions", &names(&left.extensions))
        .replace("$rows", &rows)
}

/// `part`: what stands for what. `edge`: who needs whom, parts replaced by their wholes; `goes_with` marks a
/// need that ends the one with the other (a partition or an inheritance child is a table of its own right).
/// `lost`: outward from what is left behind.
const DEPENDENTS: &str = "
WITH RECURSIVE element AS (
  SELECT t.oid, coalesce(e.oid, t.oid) AS element, coalesce(e.typrelid, t.typrelid) AS relation
  FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
), part(classid, objid, whole_class, whole) AS (
  SELECT 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid, x.oid,
         CASE WHEN c.relkind <> 'c' THEN 'pg_catalog.pg_class'::pg_catalog.regclass
              ELSE 'pg_catalog.pg_type'::pg_catalog.regclass END::pg_catalog.oid,
         CASE WHEN c.relkind <> 'c' THEN c.oid ELSE x.element END
  FROM element x LEFT JOIN pg_catalog.pg_class c ON c.oid = x.relation
UNION ALL
  SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 'pg_catalog.pg_type'::pg_catalog.regclass, c.reltype
  FROM pg_catalog.pg_class c WHERE c.relkind = 'c'
UNION ALL
  SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, a.oid, 'pg_catalog.pg_class'::pg_catalog.regclass, a.adrelid
  FROM pg_catalog.pg_attrdef a
UNION ALL
  SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid, 'pg_catalog.pg_class'::pg_catalog.regclass, r.ev_class
  FROM pg_catalog.pg_rewrite r WHERE r.rulename = '_RETURN'
UNION ALL
  SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid,
         CASE WHEN k.contypid <> 0 THEN 'pg_catalog.pg_type'::pg_catalog.regclass
              ELSE 'pg_catalog.pg_class'::pg_catalog.regclass END,
         CASE WHEN k.contypid <> 0 THEN k.contypid ELSE k.conrelid END
  FROM pg_catalog.pg_constraint k WHERE k.contypid <> 0 OR k.contype IN ('c', 'n')
UNION ALL
  SELECT 'pg_catalog.pg_amop'::pg_catalog.regclass, o.oid, 'pg_catalog.pg_opfamily'::pg_catalog.regclass, o.amopfamily
  FROM pg_catalog.pg_amop o
UNION ALL
  SELECT 'pg_catalog.pg_amproc'::pg_catalog.regclass, o.oid, 'pg_catalog.pg_opfamily'::pg_catalog.regclass, o.amprocfamily
  FROM pg_catalog.pg_amproc o
), edge AS (
  SELECT DISTINCT coalesce(a.whole_class, d.classid) AS classid, coalesce(a.whole, d.objid) AS objid,
         coalesce(b.whole_class, d.refclassid) AS refclassid, coalesce(b.whole, d.refobjid) AS refobjid,
         c.relkind,
         d.deptype IN ('a', 'i', 'P', 'S') AND coalesce(c.relkind NOT IN ('r', 'p', 'f', 'v', 'm'), true) AS goes_with
  FROM pg_catalog.pg_depend d
    LEFT JOIN part a ON a.classid = d.classid AND a.objid = d.objid
    LEFT JOIN part b ON b.classid = d.refclassid AND b.objid = d.refobjid
    LEFT JOIN pg_catalog.pg_class c
      ON c.oid = coalesce(a.whole, d.objid)
     AND coalesce(a.whole_class, d.classid) = 'pg_catalog.pg_class'::pg_catalog.regclass
  WHERE d.deptype NOT IN ('e', 'p', 'x') AND d.refobjid >= 16384
    AND d.refclassid <> 'pg_catalog.pg_namespace'::pg_catalog.regclass
    AND (coalesce(a.whole_class, d.classid), coalesce(a.whole, d.objid))
        IS DISTINCT FROM (coalesce(b.whole_class, d.refclassid), coalesce(b.whole, d.refobjid))
    AND d.classid NOT IN (SELECT s.oid FROM pg_catalog.pg_class s
                          WHERE s.relnamespace = 'pg_catalog'::pg_catalog.regnamespace
                            AND (s.relname LIKE 'pg_publication%' OR s.relname = 'pg_extension'))
    AND NOT (d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
             AND d.objid IN (SELECT k.oid FROM pg_catalog.pg_constraint k WHERE k.contype = 'f'))
), in_schema AS (
  SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS classid, c.oid AS objid, c.relnamespace AS schema
  FROM pg_catalog.pg_class c
UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, oid, typnamespace FROM pg_catalog.pg_type
UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, pronamespace FROM pg_catalog.pg_proc
UNION ALL SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, oid, oprnamespace FROM pg_catalog.pg_operator
UNION ALL SELECT 'pg_catalog.pg_opclass'::pg_catalog.regclass, oid, opcnamespace FROM pg_catalog.pg_opclass
UNION ALL SELECT 'pg_catalog.pg_opfamily'::pg_catalog.regclass, oid, opfnamespace FROM pg_catalog.pg_opfamily
UNION ALL SELECT 'pg_catalog.pg_collation'::pg_catalog.regclass, oid, collnamespace FROM pg_catalog.pg_collation
UNION ALL SELECT 'pg_catalog.pg_conversion'::pg_catalog.regclass, oid, connamespace FROM pg_catalog.pg_conversion
UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, oid, connamespace FROM pg_catalog.pg_constraint
UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, oid, stxnamespace FROM pg_catalog.pg_statistic_ext
UNION ALL SELECT 'pg_catalog.pg_ts_config'::pg_catalog.regclass, oid, cfgnamespace FROM pg_catalog.pg_ts_config
UNION ALL SELECT 'pg_catalog.pg_ts_dict'::pg_catalog.regclass, oid, dictnamespace FROM pg_catalog.pg_ts_dict
UNION ALL SELECT 'pg_catalog.pg_ts_parser'::pg_catalog.regclass, oid, prsnamespace FROM pg_catalog.pg_ts_parser
UNION ALL SELECT 'pg_catalog.pg_ts_template'::pg_catalog.regclass, oid, tmplnamespace FROM pg_catalog.pg_ts_template
), beginning AS (
  SELECT o.classid, o.objid, '1 schema' AS cause
  FROM in_schema o JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
  WHERE n.nspname = ANY ($schemas)
UNION ALL
  SELECT coalesce(a.whole_class, d.classid), coalesce(a.whole, d.objid), '2 extension'
  FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
    LEFT JOIN part a ON a.classid = d.classid AND a.objid = d.objid
  WHERE d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
    AND e.extname = ANY ($extensions)
UNION ALL
  SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, r.oid, '3 rows' FROM unnest($rows) AS r(oid)
), lost AS (
  SELECT b.classid, b.objid, b.cause, NULL::pg_catalog.oid AS needs_class, NULL::pg_catalog.oid AS needs,
         NULL::\"char\" AS relkind, false AS goes_with
  FROM beginning b
UNION
  SELECT e.classid, e.objid, l.cause, e.refclassid, e.refobjid, e.relkind, e.goes_with
  FROM lost l JOIN edge e ON e.refclassid = l.classid AND e.refobjid = l.objid
  WHERE l.cause <> '3 rows' OR e.relkind IN ('v', 'm')
)
SELECT object, kind, cause, needs FROM (
  SELECT pg_catalog.pg_describe_object(f.classid, f.objid, 0) AS object, f.kind, f.cause,
         coalesce(pg_catalog.pg_describe_object(f.needs_class, f.needs, 0), '') AS needs
  FROM (
    SELECT l.classid, l.objid, coalesce(min(l.relkind::pg_catalog.text), '') AS kind, min(l.cause) AS cause,
           (pg_catalog.array_agg(l.needs_class ORDER BY l.cause, l.needs))[1] AS needs_class,
           (pg_catalog.array_agg(l.needs ORDER BY l.cause, l.needs))[1] AS needs
    FROM lost l
    WHERE NOT EXISTS (SELECT FROM beginning b WHERE b.classid = l.classid AND b.objid = l.objid
                        AND (b.cause <> '3 rows' OR l.cause = '3 rows'))
    GROUP BY l.classid, l.objid
    HAVING NOT bool_or(l.goes_with)
  ) f
) d
WHERE object IS NOT NULL
ORDER BY cause, kind, object";
