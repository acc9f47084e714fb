//! The catalog queries: few, set-based, the same shape on every server from 10 on.
//!
//! Hazard: a query sees the snapshot, a catalog function sees the present. So `pg_relation_size` answers
//! NULL for a table dropped since, and *waits* for a table that is being altered; such a table is
//! measured by `relpages` instead (P26).
//! Hazard: columns appear in some version (`attgenerated` in 12, `indnkeyatts` in 11). Each query has one
//! text per server, built here and nowhere else.
//!
//! Names are resolved under the pinned `search_path = ''`, where only `pg_catalog` answers (P57).

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::error::{Error, ErrorKind, Result};
use crate::pg::ServerVersion;
use crate::wire::Session;

/// What is the user's: not the system's, not a temporary object's, not our own state (P81).
pub(crate) const USER_SCHEMA: &str =
    "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgstream')";

/// Joins `e`, the extension that relation `c` is a member of (P44).
pub(crate) const EXTENSION_OF_RELATION: &str = "
  LEFT JOIN pg_catalog.pg_depend member
    ON member.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND member.objid = c.oid
   AND member.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND member.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = member.refobjid";

/// Runs one catalog query. No prepared statement stays behind, and one round trip is enough.
///
/// # Errors
/// What the server or the connection says; `doing` is the verb phrase of the error.
pub(crate) async fn rows(session: &Session, doing: &str, sql: &str) -> Result<Vec<Row>> {
    session.query_typed(sql, &[]).await.map_err(|error| Error::from_postgres(doing, error))
}

/// Runs a query of very many rows, and hands each over as it comes: held together they are many times what they say.
///
/// # Errors
/// As [`rows`]; the first of `put`.
pub(crate) async fn each(
    session: &Session,
    doing: &str,
    sql: &str,
    mut put: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let failed = |error| Error::from_postgres(doing, error);
    let no_parameters = std::iter::empty::<(i32, Type)>();
    let mut rows = std::pin::pin!(session.query_typed_raw(sql, no_parameters).await.map_err(failed)?);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        put(&row)?;
    }
    Ok(())
}

/// What each row of such a query says.
///
/// # Errors
/// As [`each`].
pub(crate) async fn read<T>(
    session: &Session,
    doing: &str,
    sql: &str,
    mut one: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    let mut all = Vec::new();
    each(session, doing, sql, |row| {
        all.push(one(row)?);
        Ok(())
    })
    .await?;
    Ok(all)
}

/// Runs a query that answers with one row.
///
/// # Errors
/// As [`rows`].
pub(crate) async fn row(session: &Session, doing: &str, sql: &str) -> Result<Row> {
    session.query_typed_one(sql, &[]).await.map_err(|error| Error::from_postgres(doing, error))
}

/// A field by its name.
///
/// # Errors
/// `Protocol` if the server sent another type, or NULL where there is none to expect.
pub(crate) fn field<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T> {
    row.try_get(column).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("read column {column} of a catalog query")).because(error)
    })
}

/// A `"char"` field as the letter the catalogs document; `'\0'` for the empty one.
///
/// # Errors
/// As [`field`].
pub(super) fn letter(row: &Row, column: &str) -> Result<char> {
    field::<i8>(row, column).map(|byte| char::from(byte.cast_unsigned()))
}

/// Name, encoding, large objects; and JIT off for the session, because the planner takes the
/// queries below for expensive and would compile for longer than they run.
pub(super) const DATABASE: &str = "
SELECT (SELECT pg_catalog.set_config(s.name, 'off', false) FROM pg_catalog.pg_settings s WHERE s.name = 'jit'),
       d.datname AS database,
       pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata) AS large_objects
FROM pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database()";

/// Schemas of the user's.
pub(super) fn schemas() -> String {
    format!("SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA} ORDER BY n.nspname")
}

/// Extensions, and which of them need which.
pub(super) const EXTENSIONS: &str = "
SELECT e.extname, n.nspname,
       ARRAY(SELECT needed.extname::pg_catalog.text
             FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension needed ON needed.oid = d.refobjid
             WHERE d.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.objid = e.oid
               AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
             ORDER BY needed.extname) AS requires
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname <> 'plpgsql'
ORDER BY e.extname";

/// Ordinary, partitioned and foreign tables. Sizes are measured, because `relpages` is stale after a bulk load.
pub(super) fn tables() -> String {
    format!(
        "
WITH contested AS (
  SELECT DISTINCT l.relation FROM pg_catalog.pg_locks l
  WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL AND l.pid <> pg_catalog.pg_backend_pid()
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
), constants AS (
  SELECT pg_catalog.current_setting('block_size')::pg_catalog.int8 AS block_size
)
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relispartition, c.relreplident,
       c.relrowsecurity, e.extname,
       pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       CASE WHEN c.reltuples = 0 AND c.relpages = 0 THEN -1 ELSE c.reltuples::pg_catalog.float8 END AS reltuples,
       coalesce(parents.oids, '{{}}') AS parents,
       coalesce(triggers.names, '{{}}') AS triggers,
       rules.ev_class IS NOT NULL AS has_rules,
       coalesce(sizes.main / constants.block_size, 0) AS blocks,
       coalesce(sizes.main, 0) + coalesce(sizes.toast, 0) AS bytes
FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN constants
  LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
  LEFT JOIN contested busy ON busy.relation = c.oid
  LEFT JOIN contested busy_toast ON busy_toast.relation = t.oid
  {EXTENSION_OF_RELATION}
  LEFT JOIN (SELECT i.inhrelid, pg_catalog.array_agg(i.inhparent ORDER BY i.inhseqno) AS oids
             FROM pg_catalog.pg_inherits i GROUP BY i.inhrelid) parents ON parents.inhrelid = c.oid
  LEFT JOIN (SELECT t.tgrelid, pg_catalog.array_agg(t.tgname::pg_catalog.text ORDER BY t.tgname) AS names
             FROM pg_catalog.pg_trigger t WHERE t.tgenabled IN ('A', 'R') GROUP BY t.tgrelid) triggers
    ON triggers.tgrelid = c.oid
  LEFT JOIN (SELECT DISTINCT r.ev_class FROM pg_catalog.pg_rewrite r
             WHERE r.ev_type <> '1' AND r.ev_enabled <> 'D') rules ON rules.ev_class = c.oid
  CROSS JOIN LATERAL (SELECT
      CASE WHEN c.relkind <> 'r' THEN 0
           WHEN busy.relation IS NULL THEN pg_catalog.pg_relation_size(c.oid)
           ELSE c.relpages * constants.block_size END AS main,
      CASE WHEN t.oid IS NULL THEN 0
           WHEN busy.relation IS NULL AND busy_toast.relation IS NULL THEN pg_catalog.pg_relation_size(t.oid)
           ELSE t.relpages * constants.block_size END AS toast) sizes
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY n.nspname, c.relname"
    )
}

/// Columns that are not dropped, table by table, in order.
pub(super) fn columns(version: ServerVersion) -> String {
    let generated = if version.major() >= 12 { "a.attgenerated" } else { "''::pg_catalog.\"char\"" };
    format!(
        "
SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity,
       {generated} AS attgenerated,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_text
FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped
  AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY a.attrelid, a.attnum"
    )
}

/// Every type that a column has, and every type those rest on.
pub(super) fn types(version: ServerVersion) -> String {
    let multirange = if version.major() >= 14 { "r.rngmultitypid" } else { "NULL::pg_catalog.oid" };
    format!(
        "
WITH RECURSIVE used(oid) AS (
    SELECT DISTINCT a.atttypid
    FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped
      AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {USER_SCHEMA}
  UNION
    SELECT below.oid
    FROM used
      JOIN pg_catalog.pg_type t ON t.oid = used.oid
      CROSS JOIN LATERAL (
          SELECT t.typelem UNION ALL SELECT t.typbasetype
        UNION ALL
          SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, {multirange})
        UNION ALL
          SELECT a.atttypid FROM pg_catalog.pg_attribute a
          WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
      ) below(oid)
    WHERE below.oid <> 0
), sortable(oid) AS (
    SELECT o.opcintype FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod
    WHERE o.opcdefault AND m.amname = 'btree'
)
SELECT t.oid, n.nspname, t.typname, t.typtype, t.typarray, t.typelem, t.typbasetype,
       coalesce(element.typarray = t.oid, false) AS is_array,
       t.typsend <> 0 AND t.typreceive <> 0 AS has_binary,
       e.extname || ' ' || e.extversion AS extension,
       coalesce((SELECT r.rngsubtype FROM pg_catalog.pg_range r
                 WHERE t.oid IN (r.rngtypid, {multirange}) LIMIT 1), 0) AS subtype,
       ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS members,
       EXISTS (SELECT FROM sortable s WHERE s.oid = t.oid)
         OR EXISTS (SELECT FROM pg_catalog.pg_cast k JOIN sortable s ON s.oid = k.casttarget
                    WHERE k.castsource = t.oid AND k.castmethod = 'b' AND k.castcontext = 'i') AS is_sortable
FROM used
  JOIN pg_catalog.pg_type t ON t.oid = used.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem
  LEFT JOIN pg_catalog.pg_depend member
    ON member.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND member.objid = t.oid
   AND member.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND member.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension e ON e.oid = member.refobjid"
    )
}

/// Indexes of tables; those being dropped are left out.
pub(super) fn indexes(version: ServerVersion) -> String {
    let key_columns = if version.major() >= 11 { "i.indnkeyatts" } else { "i.indnatts" };
    format!(
        "
SELECT i.indexrelid, i.indrelid, x.relname, i.indisprimary, i.indisunique, i.indisexclusion,
       (i.indkey::pg_catalog.int2[])[0:{key_columns} - 1] AS key,
       i.indpred IS NOT NULL AS is_partial,
       i.indimmediate, i.indisvalid, i.indisreplident
FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indislive AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY i.indrelid, i.indisreplident DESC, x.relname"
    )
}

/// Sequences that no extension owns.
pub(super) fn sequences() -> String {
    format!(
        "
SELECT c.oid, n.nspname, c.relname
FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  {EXTENSION_OF_RELATION}
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND e.oid IS NULL AND {USER_SCHEMA}
ORDER BY n.nspname, c.relname"
    )
}

/// Materialized views that no extension owns.
pub(super) fn materialized_views() -> String {
    format!(
        "
SELECT c.oid, n.nspname, c.relname, c.relispopulated
FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  {EXTENSION_OF_RELATION}
WHERE c.relkind = 'm' AND e.oid IS NULL AND {USER_SCHEMA}
ORDER BY n.nspname, c.relname"
    )
}

/// Which view or materialized view reads which other one, plain views included (P36).
pub(super) const VIEW_READS: &str = "
SELECT DISTINCT r.ev_class AS reader, d.refobjid AS read
FROM pg_catalog.pg_rewrite r
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
  JOIN pg_catalog.pg_class c ON c.oid = d.refobjid
WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND c.relkind IN ('v', 'm') AND d.refobjid <> r.ev_class AND r.rulename = '_RETURN'";

/// Foreign keys, those that partitions inherit included.
pub(super) fn foreign_keys() -> String {
    format!(
        "
SELECT k.conname, k.conrelid, k.confrelid
FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND c.relpersistence <> 't' AND {USER_SCHEMA}
ORDER BY n.nspname, c.relname, k.conname, k.confrelid"
    )
}

/// Labels of every enum type, in order (P66).
pub(super) fn enums() -> String {
    format!(
        "
SELECT n.nspname, t.typname, pg_catalog.array_agg(l.enumlabel::pg_catalog.text ORDER BY l.enumsortorder) AS labels
FROM pg_catalog.pg_enum l
  JOIN pg_catalog.pg_type t ON t.oid = l.enumtypid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE {USER_SCHEMA}
GROUP BY n.nspname, t.typname
ORDER BY n.nspname, t.typname"
    )
}
