//! What the writers do: one transaction at a time, as SQL text.
//!
//! Pure, so that a seed names a run. Each kind of transaction is here because some way of applying
//! changes gets it wrong; the comment says which.

use crate::demo::dice::Dice;
use crate::pg::ServerVersion;

/// One transaction of a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Script {
    /// Statements between BEGIN and COMMIT.
    Transaction(String),
    /// Statements whose transaction is rolled back: nothing of it may ever arrive.
    Abandoned(String),
    /// `COPY statement FROM STDIN` with these lines.
    Copy {
        /// The COPY statement.
        statement: &'static str,
        /// Its data, in text format.
        lines: String,
    },
}

/// What the scripts have to know of the database they write to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Before 11 a row cannot move between partitions.
    pub version: ServerVersion,
    /// Rows of the middling tables, as seeded.
    pub rows: u32,
    /// Rows of the largest transactions.
    pub transaction_rows_max: u32,
}

type Writer = fn(&mut Dice, Facts) -> Script;

/// How often each kind comes, in shares.
const KINDS: &[(u32, Writer)] = &[
    (12, transfer),
    (12, place_order),
    (8, edit_document),
    (6, edit_customer),
    (6, upsert_product),
    (4, change_key),
    (4, delete_and_reinsert),
    (5, swap_seats),
    (5, book),
    (5, keyless),
    (4, move_partition),
    (4, family),
    (4, every_type),
    (4, savepoints),
    (3, abandoned),
    (2, truncate),
    (4, copy),
    (2, odd_shapes),
    (1, bulk),
];

impl Script {
    /// The next transaction of a writer.
    pub(super) fn roll(dice: &mut Dice, facts: Facts) -> Script {
        let mut left = dice.below(KINDS.iter().map(|(share, _)| share).sum());
        for (share, writer) in KINDS {
            if left < *share {
                return writer(dice, facts);
            }
            left -= share;
        }
        transfer(dice, facts)
    }
}

/// Locks two rows in any order, so deadlocks happen; an AFTER trigger writes the audit.
fn transfer(dice: &mut Dice, _: Facts) -> Script {
    let (from, to, amount) = (dice.upto(200), dice.upto(200), dice.upto(50));
    Script::Transaction(format!(
        "UPDATE shop.account SET balance = balance - {amount} WHERE id = {from};
         UPDATE shop.account SET balance = balance + {amount} WHERE id = {to}"
    ))
}

/// Rows whose keys only the source can know, and children before a deferred check.
fn place_order(dice: &mut Dice, facts: Facts) -> Script {
    let (day, lines) = (dice.below(1000), dice.upto(8));
    let region = dice.pick(&["de", "fi", "us", "jp", "O''Higgins"]);
    let product = dice.upto(facts.rows / 4 + 1);
    Script::Transaction(format!(
        "WITH placed AS (
             INSERT INTO shop.orders (placed, region, state, total)
             VALUES (date '2023-01-01' + {day}, '{region}', 'new', {lines}.25) RETURNING id)
         INSERT INTO shop.order_line
         SELECT id, n, (SELECT p.id FROM shop.product AS p WHERE p.id >= {product} ORDER BY p.id LIMIT 1), n, NULL
         FROM placed, generate_series(1, {lines}) AS n"
    ))
}

/// Unchanged TOAST: the new row comes without its long values; in a contract, the old one with them.
fn edit_document(dice: &mut Dice, facts: Facts) -> Script {
    let id = document(dice, facts);
    let (number, contract) = (dice.below(100_000), dice.upto(50));
    let change = dice.pick(&[
        "title = title || '.'",
        "data = jsonb_set(data, '{i}', to_jsonb((data ->> 'i')::bigint + 1))",
        "body = left(body, 3000) || md5(body)",
        "body = NULL",
        "body = repeat(md5(title), 200), title = 'again'",
        "scan = NULL, data = data",
    ]);
    Script::Transaction(format!(
        "UPDATE shop.document SET {change} WHERE id = {id};
         UPDATE shop.contract SET state = 'signed {number}' WHERE id = {contract}"
    ))
}

fn document(dice: &mut Dice, facts: Facts) -> String {
    format!("md5('document{}')::uuid", dice.upto((facts.rows / 5).max(1)))
}

/// NULL, '' and 'null'; arrays, composites and enums; several updates of one row in one transaction.
fn edit_customer(dice: &mut Dice, facts: Facts) -> Script {
    let id = 1000 + 3 * dice.below(facts.rows);
    let note = dice.pick(&["NULL", "''", "'null'", r"E'\\N'", r"E'a\tb\\.\n'", "'🐘'"]);
    let (discount, number) = (dice.below(101), dice.below(1_000_000));
    Script::Transaction(format!(
        "UPDATE shop.customer SET note = {note}, earlier = ARRAY[home] || earlier[1:2] WHERE id = {id};
         UPDATE shop.customer SET discount = {discount}, name = 'n{number}' WHERE id = {id};
         INSERT INTO shop.customer (email, country) VALUES ('new{number}@example.org', 'a, b')
             ON CONFLICT (email) DO UPDATE SET note = 'again'"
    ))
}

/// ON CONFLICT takes either way; a stored generated column follows.
fn upsert_product(dice: &mut Dice, _: Facts) -> Script {
    let (sku, price) = (dice.upto(2000), dice.below(100_000));
    Script::Transaction(format!(
        "INSERT INTO shop.product (sku, price, tags) VALUES ('SKU-{sku}', {price} / 100.0, '{{}}')
             ON CONFLICT (sku) DO UPDATE SET price = EXCLUDED.price, stock = shop.product.stock + 1"
    ))
}

/// A key moves away and back, and drags its children along.
fn change_key(dice: &mut Dice, facts: Facts) -> Script {
    let (id, away) = (dice.upto(facts.rows / 4 + 1), 1_000_000 + dice.below(100_000));
    Script::Transaction(match dice.below(3) {
        0 => format!("UPDATE shop.product SET id = {away} WHERE id = {id}"),
        1 => format!(
            "UPDATE shop.product SET id = {away} WHERE id = {id};
             UPDATE shop.product SET stock = stock + 1 WHERE id = {away};
             UPDATE shop.product SET id = {id} WHERE id = {away}"
        ),
        _ => format!(
            "UPDATE shop.order_line SET position = position + 100
             WHERE order_id = (SELECT max(id) - {id} FROM shop.orders)"
        ),
    })
}

/// The same key dies and lives again, with less in it than before.
fn delete_and_reinsert(dice: &mut Dice, facts: Facts) -> Script {
    let (id, number) = (document(dice, facts), dice.below(1000));
    let last = dice.pick(&["", "DELETE FROM shop.document WHERE id ="]);
    let last = if last.is_empty() { String::new() } else { format!("; {last} {id}") };
    Script::Transaction(format!(
        "DELETE FROM shop.document WHERE id = {id};
         INSERT INTO shop.document (id, title, body) VALUES ({id}, 'born again', repeat('{number} ', 2000));
         UPDATE shop.document SET title = 'and changed' WHERE id = {id}{last}"
    ))
}

/// Unique values change owners: by way of a third place, or at once where the check is deferred.
fn swap_seats(dice: &mut Dice, _: Facts) -> Script {
    let (one, other) = (dice.upto(500), dice.upto(500));
    Script::Transaction(if dice.below(2) == 0 {
        format!(
            "DO $$
             DECLARE first int; second int;
             BEGIN
                 SELECT place INTO first FROM shop.seat WHERE id = {one} FOR UPDATE;
                 SELECT place INTO second FROM shop.seat WHERE id = {other} FOR UPDATE;
                 UPDATE shop.seat SET place = -{one} WHERE id = {one};
                 UPDATE shop.seat SET place = first WHERE id = {other} AND {one} <> {other};
                 UPDATE shop.seat SET place = second WHERE id = {one};
             END $$"
        )
    } else {
        format!(
            "UPDATE shop.seat AS s SET rank = o.rank, guest = o.guest FROM shop.seat AS o
             WHERE (s.id, o.id) IN (({one}, {other}), ({other}, {one}))"
        )
    })
}

/// An exclusion constraint: the old booking must be gone before the new one is there.
fn book(dice: &mut Dice, _: Facts) -> Script {
    let (room, hour, span) = (dice.below(30), dice.below(400), dice.upto(3));
    let during = format!(
        "tsrange(timestamp '2024-01-01' + interval '{hour} h', timestamp '2024-01-01' + interval '{} h')",
        hour + span
    );
    Script::Transaction(format!(
        "DELETE FROM shop.booking WHERE rooms && int4range({room}, {room} + 1) AND during && {during};
         INSERT INTO shop.booking (rooms, during) VALUES (int4range({room}, {room} + 1), {during})"
    ))
}

/// Tables without a key: duplicates come, one of two twins changes, one of three goes (P06, P07).
fn keyless(dice: &mut Dice, _: Facts) -> Script {
    let (number, host) = (dice.below(17), dice.upto(200));
    Script::Transaction(match dice.below(4) {
        0 => format!(
            "INSERT INTO shop.journal SELECT 'word {number}', 0.1, point(0, 0), '[]' FROM generate_series(1, 3)"
        ),
        1 => format!(
            "UPDATE shop.journal SET amount = amount + 0.1 WHERE ctid = (
                 SELECT ctid FROM shop.journal WHERE word = 'word {number}' LIMIT 1 FOR UPDATE SKIP LOCKED)"
        ),
        2 => format!(
            "DELETE FROM shop.journal WHERE ctid = (
                 SELECT ctid FROM shop.journal WHERE word = 'word {number}' LIMIT 1 FOR UPDATE SKIP LOCKED)"
        ),
        _ => format!(
            "INSERT INTO shop.heartbeat VALUES ({number}, now(), 'host{host}');
             UPDATE shop.heartbeat SET beat = beat + 1 WHERE host = 'host{host}';
             UPDATE shop.queue SET payload = payload || '+' WHERE ticket = {host};
             DELETE FROM shop.heartbeat WHERE host = 'host{host}' AND beat > 20"
        ),
    })
}

/// An UPDATE that is a DELETE in one partition and an INSERT in another, of other column order.
fn move_partition(dice: &mut Dice, facts: Facts) -> Script {
    let region = dice.pick(&["de", "fi", "us", "jp"]);
    let (id, day) = (dice.upto(facts.rows * 3), dice.below(1000));
    Script::Transaction(if facts.version.major() >= 11 {
        format!(
            "UPDATE shop.orders SET region = '{region}', placed = date '2023-01-01' + {day}, state = 'moved'
             WHERE id = {id}"
        )
    } else {
        format!("UPDATE shop.orders SET state = 'stays' WHERE id = {id}")
    })
}

/// Classic inheritance: the parent's statement reaches the children, the same id lives in each.
fn family(dice: &mut Dice, _: Facts) -> Script {
    let (id, legs) = (dice.upto(50), dice.below(9));
    Script::Transaction(format!(
        "UPDATE shop.animal SET legs = {legs} WHERE id = {id};
         UPDATE ONLY shop.animal SET name = name || '!' WHERE id = {id} AND length(name) < 40;
         INSERT INTO shop.category VALUES (100000 + {id}, NULL, 'short-lived');
         DELETE FROM shop.category WHERE id = 100000 + {id}"
    ))
}

/// Values of every type go through the stream, not only through the copy.
fn every_type(dice: &mut Dice, _: Facts) -> Script {
    let (from, id) = (dice.upto(3), 10 + dice.below(200));
    Script::Transaction(format!(
        "DELETE FROM shop.every_type WHERE id = {id};
         INSERT INTO shop.every_type SELECT (populate).* FROM (
             SELECT pg_catalog.jsonb_populate_record(t, '{{\"id\": {id}}}') AS populate
             FROM shop.every_type AS t WHERE id = {from}) AS copied;
         UPDATE shop.every_type SET t_numeric = t_numeric + 0.10, a_text = a_text || '{{NULL,x}}'::text[],
             t_interval = t_interval + interval '1 mon', t_timestamptz = t_timestamptz + interval '1 ms'
         WHERE id = {id}"
    ))
}

/// Subtransactions, kept and cast away, nested.
fn savepoints(dice: &mut Dice, _: Facts) -> Script {
    let rows = dice.upto(50);
    let insert = |kind: &str| {
        format!(
            "INSERT INTO shop.event (kind, payload) SELECT '{kind}', repeat('p', n) \
             FROM generate_series(1, {rows}) AS n"
        )
    };
    let outer = dice.pick(&["RELEASE a", "ROLLBACK TO a"]);
    Script::Transaction(format!(
        "{}; SAVEPOINT a; {}; SAVEPOINT b; {}; ROLLBACK TO b; {}; {outer}; {}",
        insert("before"),
        insert("in a"),
        insert("never"),
        insert("after b"),
        insert("after a")
    ))
}

/// Nothing of this is ever seen, except that sequences have moved.
fn abandoned(dice: &mut Dice, _: Facts) -> Script {
    let (rows, id) = (dice.upto(300), dice.upto(200));
    Script::Abandoned(format!(
        "INSERT INTO shop.event (kind, payload) SELECT 'abandoned', 'x' FROM generate_series(1, {rows});
         UPDATE shop.account SET balance = -1 WHERE id = {id};
         SELECT nextval('shop.small'), nextval('shop.downwards')"
    ))
}

/// TRUNCATE with its flags, then rows that reuse the keys (P41).
fn truncate(dice: &mut Dice, _: Facts) -> Script {
    let rows = dice.upto(100);
    let statement = dice.pick(&[
        "TRUNCATE shop.scratch CASCADE",
        "TRUNCATE shop.scratch, shop.scratch_child RESTART IDENTITY",
        "TRUNCATE shop.scratch_child",
        "TRUNCATE shop.scratch RESTART IDENTITY CASCADE",
        "INSERT INTO shop.scratch (text) VALUES ('soon gone'); TRUNCATE shop.scratch CASCADE",
    ]);
    Script::Transaction(format!(
        "{statement};
         WITH parents AS (
             INSERT INTO shop.scratch (text) SELECT 'scratch ' || n FROM generate_series(1, {rows}) AS n
             RETURNING id)
         INSERT INTO shop.scratch_child (scratch) SELECT id FROM parents"
    ))
}

/// A long run of inserts into one table.
fn copy(dice: &mut Dice, _: Facts) -> Script {
    let lines = (0..dice.upto(2000)).map(|number| {
        let payload = dice.pick(&["\\N", "", "plain", "tab\\there", "back\\\\slash"]);
        format!("copied\t{payload}\t2024-01-01 00:00:{}\n", number % 60)
    });
    Script::Copy { lines: lines.collect(), statement: "COPY shop.event (kind, payload, at) FROM STDIN" }
}

/// Names that need quoting, dropped columns, no columns, two hundred of them; a message in the WAL.
fn odd_shapes(dice: &mut Dice, _: Facts) -> Script {
    let (id, number) = (dice.upto(50), dice.below(1000));
    Script::Transaction(format!(
        r#"UPDATE "Ünï Schöma"."Größe ""quoted"" 表" SET "a.b" = 'v{number}', " " = NULL WHERE "ID" = {id};
         UPDATE shop.shrunk SET a = {number}, d = DEFAULT WHERE c = {id};
         UPDATE shop.wide SET column_{id} = {number} WHERE id = {id};
         INSERT INTO shop.nothing DEFAULT VALUES;
         SELECT pg_catalog.pg_logical_emit_message(true, 'demo', 'message {number}')"#
    ))
}

/// A transaction of thousands of rows, which streams on 14+ before it commits.
fn bulk(dice: &mut Dice, facts: Facts) -> Script {
    let rows = dice.upto(facts.transaction_rows_max);
    let remainder = dice.below(3);
    Script::Transaction(format!(
        "CREATE TEMPORARY TABLE fresh ON COMMIT DROP AS SELECT 0::bigint AS id WITH NO DATA;
         WITH written AS (
             INSERT INTO shop.event (kind, payload) SELECT 'bulk', md5(n::text) FROM generate_series(1, {rows}) AS n
             RETURNING id)
         INSERT INTO fresh SELECT id FROM written;
         UPDATE shop.event AS e SET payload = payload || '!' FROM fresh AS f WHERE e.id = f.id AND f.id % 3 <> {remainder};
         DELETE FROM shop.event AS e USING fresh AS f WHERE e.id = f.id AND f.id % 3 = {remainder}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{Cluster, ClusterOptions, SeedOptions, seed};

    const FACTS: Facts =
        Facts { version: ServerVersion::new(150_000), rows: 100, transaction_rows_max: 5000 };

    #[test]
    fn the_same_dice_write_the_same_scripts() {
        let run = |seed| {
            let mut dice = Dice::new(seed, 0);
            (0..100).map(|_| Script::roll(&mut dice, FACTS)).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }

    #[test]
    fn every_kind_comes_up() {
        let mut dice = Dice::new(1, 0);
        let scripts: Vec<Script> = (0..2000).map(|_| Script::roll(&mut dice, FACTS)).collect();
        let some = |test: fn(&Script) -> bool| scripts.iter().any(test);
        assert!(some(|script| matches!(script, Script::Copy { .. })));
        assert!(some(|script| matches!(script, Script::Abandoned(_))));
        assert!(some(|script| matches!(script, Script::Transaction(sql) if sql.contains("ON COMMIT DROP"))));
    }

    /// A kind that always violates something would be rolled back in silence for ever.
    #[tokio::test]
    async fn every_kind_commits() {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        let session = cluster.session("postgres").await.unwrap();
        seed(&session, SeedOptions { rows: FACTS.rows, seed: 1 }).await.unwrap();
        let mut dice = Dice::new(1, 0);
        for (index, (_, writer)) in KINDS.iter().enumerate() {
            let mut commits = 0;
            for _ in 0..20 {
                let (Script::Transaction(sql) | Script::Abandoned(sql)) = writer(&mut dice, FACTS) else {
                    commits += 1;
                    continue;
                };
                let outcome = session.batch_execute(&format!("BEGIN; {sql}; COMMIT")).await;
                if let Err(error) = &outcome {
                    let code = error.code().unwrap().code();
                    assert!(code.starts_with("23"), "{error:?} in {sql}");
                    session.batch_execute("ROLLBACK").await.unwrap();
                }
                commits += u32::from(outcome.is_ok());
            }
            assert!(commits >= 10, "kind {index} committed {commits} times of 20");
        }
    }
}
