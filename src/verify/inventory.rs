//! What there is to compare in a database: relations that hold rows, sequences,
//! large objects.
//!
//! Only what the comparison needs is asked, and it is asked anew: a verdict that leaned on the catalog
//! the migration itself worked from would share its blind spots.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::pg::{Identifier, QualifiedName};
use crate::verify::digest::RowHash;
use crate::wire::Session;

/// What holds the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// A table, a partition included.
    Table,
    /// A table that is not in the WAL: equal only once it was carried at the cutover (P35).
    Unlogged,
    /// A materialized view: equal only once it was refreshed (P36).
    MaterializedView,
}

/// A relation that holds rows itself.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) name: QualifiedName,
    pub(super) kind: RelationKind,
    /// All but generated ones, by name: their order may differ between the two sides.
    pub(super) columns: Vec<ColumnFacts>,
}

/// A column, as far as its digest goes.
#[derive(Debug, Clone)]
pub(super) struct ColumnFacts {
    pub(super) name: Identifier,
    /// The send function, for types made of floats; their text is not the same on every version.
    pub(super) send_function: Option<String>,
}

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequencePosition {
    /// `last_value`.
    pub last_value: i64,
    /// `is_called`.
    pub is_called: bool,
}

/// All large objects of a database; no table's row tells of their content (P34).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeObjects {
    /// How many.
    pub count: u64,
    /// The sum of a hash of each one's OID and content.
    pub sum: String,
}

/// Neither the server's own, nor an extension's, nor ours, nor somebody's temporary object.
const OURS_TO_COMPARE: &str = "
    n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgstream')
    AND n.nspname !~ '^pg_(toast|temp)'
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// `attgenerated` begins with 12; reading it through jsonb lets older servers answer "not generated".
const COLUMNS: &str = "
    SELECT a.attrelid, pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attname) AS names,
           pg_catalog.array_agg(s.typsend ORDER BY a.attname) AS sends
    FROM pg_catalog.pg_attribute AS a
    CROSS JOIN LATERAL (
        WITH RECURSIVE bottom AS (
            SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typsend FROM pg_catalog.pg_type AS t
            WHERE t.oid = a.atttypid
            UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typsend
            FROM pg_catalog.pg_type AS t JOIN bottom ON t.oid = bottom.typbasetype)
        SELECT CASE
            WHEN oid IN (700, 701, 600, 601, 602, 603, 604, 628, 718) THEN typsend::pg_catalog.regproc::text
            WHEN typelem IN (700, 701, 600, 601, 602, 603, 604, 628, 718)
                 AND typsend = 'pg_catalog.array_send'::pg_catalog.regproc THEN 'array_send'
            END AS typsend
        FROM bottom WHERE typtype <> 'd') AS s
    WHERE a.attnum > 0 AND NOT a.attisdropped
      AND coalesce(pg_catalog.to_jsonb(a) ->> 'attgenerated', '') = ''
    GROUP BY a.attrelid";

/// The relations of the database, by name.
pub(super) async fn relations(session: &Session) -> Result<BTreeMap<QualifiedName, Relation>> {
    let sql = format!(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text,
                c.relpersistence::pg_catalog.text,
                coalesce(k.names, '{{}}'), coalesce(k.sends, '{{}}')
         FROM pg_catalog.pg_class AS c
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         LEFT JOIN ({COLUMNS}) AS k ON k.attrelid = c.oid
         WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND {OURS_TO_COMPARE}"
    );
    let rows = session.query(sql.as_str(), &[]).await;
    let rows = rows.map_err(|cause| Error::from_postgres("list the tables to compare", cause))?;
    let relations = rows.iter().map(|row| {
        let name = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let kind = match (row.get::<_, &str>(2), row.get::<_, &str>(3)) {
            ("m", _) => RelationKind::MaterializedView,
            (_, "u") => RelationKind::Unlogged,
            _ => RelationKind::Table,
        };
        let columns = row.get::<_, Vec<String>>(4).into_iter().zip(row.get::<_, Vec<Option<String>>>(5));
        let columns = columns
            .map(|(name, send_function)| ColumnFacts { name: Identifier::new(name), send_function })
            .collect();
        (name.clone(), Relation { name, kind, columns })
    });
    Ok(relations.collect())
}

/// Where every sequence of the database stands, by name.
pub(super) async fn sequences(session: &Session) -> Result<BTreeMap<QualifiedName, SequencePosition>> {
    /// Per statement: a plan over thousands of relations would cost more than the round trips saved.
    const SEQUENCES_MAX: usize = 200;
    let failed = |cause| Error::from_postgres("read the sequences to compare", cause);
    let sql = format!(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
         FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'S' AND {OURS_TO_COMPARE}"
    );
    let rows = session.query(sql.as_str(), &[]).await.map_err(failed)?;
    let names: Vec<QualifiedName> =
        rows.iter().map(|row| QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    let mut positions = BTreeMap::new();
    for chunk in names.chunks(SEQUENCES_MAX) {
        let read = |(index, name): (usize, &QualifiedName)| {
            format!("SELECT {index}::pg_catalog.int8, last_value, is_called FROM {name}")
        };
        let sql = chunk.iter().enumerate().map(read).collect::<Vec<_>>().join(" UNION ALL ");
        for row in session.query(sql.as_str(), &[]).await.map_err(failed)? {
            let position = SequencePosition { last_value: row.get(1), is_called: row.get(2) };
            let name = usize::try_from(row.get::<_, i64>(0)).ok().and_then(|index| chunk.get(index));
            positions.extend(name.map(|name| (name.clone(), position)));
        }
    }
    Ok(positions)
}

/// Reads every large object; the role must be allowed to.
pub(super) async fn large_objects(session: &Session, hash: RowHash) -> Result<LargeObjects> {
    let [first, _] = hash.hashes("r");
    let sql = format!(
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum({first}), 0)::pg_catalog.text FROM (
             SELECT pg_catalog.concat(oid, ':', pg_catalog.md5(pg_catalog.lo_get(oid))) AS r
             FROM pg_catalog.pg_largeobject_metadata OFFSET 0) AS objects"
    );
    let row = session.query_one(sql.as_str(), &[]).await;
    let row = row.map_err(|cause| Error::from_postgres("read the large objects to compare", cause))?;
    Ok(LargeObjects { count: u64::try_from(row.get::<_, i64>(0)).unwrap_or_default(), sum: row.get(1) })
}
