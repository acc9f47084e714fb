//! What a database holds, in five numbers: nobody wins by carrying less.

use pgstream::error::{Error, ErrorKind, Result};
use pgstream::wire::Session;

use super::contest::Contestant;

/// Rows of tables, valid indexes, validated constraints, large objects, and a sum over the contents of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Witness([i64; 4]);

const SQL: &str = "
SELECT ARRAY[
    (SELECT coalesce(sum((xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM ONLY %s', c.oid::regclass),
         false, true, '')))[1]::text::int8), 0)::int8
       FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace),
    (SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
      WHERE i.indisvalid AND i.indisready AND c.relnamespace = 'public'::regnamespace),
    (SELECT count(*) FROM pg_constraint k WHERE k.convalidated AND k.connamespace = 'public'::regnamespace),
    (SELECT count(*) FROM pg_largeobject_metadata)]";

/// Counts.
pub(super) async fn of(session: &Session) -> Result<Witness> {
    let row = session.query_one(SQL, &[]).await;
    let row = row.map_err(|cause| Error::from_postgres("count what a database holds", cause))?;
    let counts: Vec<i64> = row.get(0);
    let counts = counts.try_into();
    counts.map(Witness).map_err(|_| Error::new(ErrorKind::Bug, "count what a database holds"))
}

impl Witness {
    /// Counts on the target as well.
    ///
    /// # Errors
    /// `Copy` if something is missing there.
    pub(super) async fn compare(self, target: &Session, contestant: Contestant) -> Result<()> {
        let there = of(target).await?;
        // A subscription does not carry large objects; it is not asked to where there are any.
        if there == self {
            return Ok(());
        }
        let found = format!("rows, indexes, constraints, large objects: {:?} of {:?}", there.0, self.0);
        Err(Error::new(ErrorKind::Copy, format!("find everything that {contestant:?} copied")).because(found))
    }
}
