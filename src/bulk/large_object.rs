//! Large objects, carried once writes have stopped: the stream says nothing of them (P34).
//!
//! Hazard: applications hold their OIDs, so each keeps its own. One object may be terabytes: none is ever
//! held whole, and what is held at once is bounded.

use crate::error::{Error, ErrorKind, Result};
use crate::pg::Identifier;
use crate::wire::Session;

/// Bytes of one object that travel at once.
const PIECE_BYTES: i32 = 1 << 20;
/// Objects whose first pieces travel together.
const BATCH: i64 = 16;

/// What was carried, and what could not be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CarriedObjects {
    /// How many.
    pub count: u64,
    /// Owners that the target would not set: role and number of objects, and grants that were left out.
    pub warnings: Vec<String>,
}

struct Object {
    oid: u32,
    owner: String,
    has_grants: bool,
}

/// Makes the target's large objects those of the source, as one snapshot shows them. Can be done twice:
/// an object that is there under the same OID is replaced.
///
/// `source` must be in a transaction of its own snapshot, `target` in none.
///
/// # Errors
/// `Copy`; objects carried before stay.
pub async fn carry_large_objects(source: &Session, target: &Session) -> Result<CarriedObjects> {
    let failed = |error| {
        Error::new(ErrorKind::Copy, "carry the large objects")
            .hint("Large objects can be read by their owners and by superusers only; running again is safe.")
            .because(Error::from_postgres("read or write them", error))
    };
    let mut carried = CarriedObjects::default();
    let mut last = 0_u32;
    let mut refused = std::collections::BTreeMap::<String, u64>::new();
    let mut with_grants = 0_u64;
    loop {
        let rows = source
            .query(
                "SELECT oid, pg_catalog.pg_get_userbyid(lomowner)::text, lomacl IS NOT NULL,
                        pg_catalog.lo_get(oid, 0, $3)
                   FROM pg_catalog.pg_largeobject_metadata WHERE oid > $1 ORDER BY oid LIMIT $2",
                &[&last, &BATCH, &PIECE_BYTES],
            )
            .await
            .map_err(failed)?;
        if rows.is_empty() {
            break;
        }
        let (mut objects, mut oids, mut pieces) = (Vec::new(), Vec::new(), Vec::<&[u8]>::new());
        for row in &rows {
            objects.push(Object { oid: row.get(0), owner: row.get(1), has_grants: row.get(2) });
            oids.push(row.get::<_, u32>(0));
            pieces.push(row.get(3));
        }
        last = oids.last().copied().unwrap_or(last);
        target.batch_execute("BEGIN").await.map_err(failed)?;
        target
            .execute(
                "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = ANY ($1)",
                &[&oids],
            )
            .await
            .map_err(failed)?;
        target
            .execute(
                "SELECT pg_catalog.lo_from_bytea(oid, piece) FROM unnest($1::oid[], $2::bytea[]) AS o(oid, piece)",
                &[&oids, &pieces],
            )
            .await
            .map_err(failed)?;
        for (object, first) in objects.iter().zip(&pieces) {
            if first.len() == PIECE_BYTES as usize {
                carry_rest(source, target, object.oid).await.map_err(failed)?;
            }
        }
        target.batch_execute("COMMIT").await.map_err(failed)?;
        for object in objects {
            carried.count += 1;
            with_grants += u64::from(object.has_grants);
            let owner = Identifier::new(object.owner.as_str());
            let set = format!("ALTER LARGE OBJECT {} OWNER TO {owner}", object.oid);
            if target.batch_execute(&set).await.is_err() {
                if target.is_closed() {
                    return Err(Error::new(ErrorKind::Connect, "carry the large objects"));
                }
                *refused.entry(object.owner).or_default() += 1;
            }
        }
    }
    carried.warnings.extend(refused.into_iter().map(|(owner, count)| {
        format!("{count} large objects belong to {owner} on the source; the target would not set that owner")
    }));
    if with_grants > 0 {
        carried
            .warnings
            .push(format!("privileges granted on {with_grants} large objects are not carried over"));
    }
    Ok(carried)
}

/// Everything after an object's first piece.
async fn carry_rest(source: &Session, target: &Session, oid: u32) -> Result<(), tokio_postgres::Error> {
    let mut offset = i64::from(PIECE_BYTES);
    loop {
        let row =
            source.query_one("SELECT pg_catalog.lo_get($1, $2, $3)", &[&oid, &offset, &PIECE_BYTES]).await?;
        let piece: &[u8] = row.get(0);
        if piece.is_empty() {
            return Ok(());
        }
        target.execute("SELECT pg_catalog.lo_put($1, $2, $3)", &[&oid, &offset, &piece]).await?;
        offset += i64::try_from(piece.len()).unwrap_or(i64::MAX);
    }
}
