//! Whether there is room: on the target's disk, under the operator's limit, in the source's table of locks.
//!
//! Hazard: no SQL tells how much room a server's disk has left. What the operator does not tell us stays unknown,
//! and is said to be (P87).

use crate::precheck::facts::Facts;
use crate::precheck::hint::Knob;
use crate::precheck::table::Finding;

/// What a database may take beyond its size on the source while it is loaded and indexed, in per cent.
const ROOM_PERCENT: u64 = 130;

/// Locks that fit into shared memory which nobody has claimed: a server with defaults took 4,800 beyond its table.
const LOCKS_LENT_MAX: u64 = 10_000;

/// `--dbs-max-total-size`.
pub(super) fn source_size(facts: &Facts) -> Vec<Finding> {
    let bytes = moved(facts);
    match facts.choices.checks.total_bytes_max {
        Some(most) if bytes > most => vec![
            Finding::block(format!(
                "{} are to be moved, more than the {} of --dbs-max-total-size.",
                size(bytes),
                size(most)
            ))
            .fix("Leave tables out, or raise --dbs-max-total-size"),
        ],
        Some(_) | None => Vec::new(),
    }
}

/// P87.
pub(super) fn target_disk(facts: &Facts) -> Vec<Finding> {
    let bytes = moved(facts);
    let wanted = bytes.saturating_mul(ROOM_PERCENT) / 100;
    let need = format!("the {} to be moved want {} ({ROOM_PERCENT} %)", size(bytes), size(wanted));
    match facts.choices.checks.target_free_bytes {
        Some(free) if free < wanted => vec![
            Finding::block(format!("The target has {} free, and {need}.", size(free)))
                .fix(format!("Give the target's disk {} more", size(wanted - free))),
        ],
        Some(_) => Vec::new(),
        None => vec![
            Finding::unknown(format!("No SQL tells how much room the target's disk has; {need}."))
                .fix("Run with --target-free-bytes SIZE, from the provider's console or df on the server"),
        ],
    }
}

/// P88: `pg_dump` locks every table of the database in one transaction.
pub(super) fn lock_table(facts: &Facts) -> Vec<Finding> {
    let source = &facts.source;
    let setting = |name| source.server.surroundings.number(name).and_then(|value| u64::try_from(value).ok());
    // What InitLocks counts (storage/lmgr/lock.c): the maximum of sessions of every kind, and prepared transactions.
    let sessions: u64 = [
        "max_connections",
        "autovacuum_max_workers",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
    ]
    .into_iter()
    .filter_map(setting)
    .sum();
    let Some(each) = setting("max_locks_per_transaction") else { return Vec::new() };
    let (room, wanted) = (each.saturating_mul(sessions + 1), source.objects.lockable);
    if wanted <= room {
        return Vec::new();
    }
    let enough = wanted.saturating_mul(2).div_ceil(sessions + 1).max(each.saturating_mul(2)).to_string();
    let message = format!(
        "pg_dump locks {wanted} tables in one transaction, and the source's lock table is made for {room} locks"
    );
    let fix = source
        .server
        .provider
        .hint(Knob::AtStart, &[("name", "max_locks_per_transaction"), ("value", &enough)]);
    vec![match wanted > room.saturating_add(LOCKS_LENT_MAX) {
        true => Finding::block(format!("{message}.")).fix(fix),
        false => Finding::warn(format!("{message}: it works only while shared memory is to spare.")).fix(fix),
    }]
}

/// Everything that the run moves.
fn moved(facts: &Facts) -> u64 {
    facts.bytes().saturating_add(facts.choices.others.bytes)
}

/// In the largest unit that leaves a whole number, rounded; units as PostgreSQL's.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    for unit in UNITS {
        // As pg_size_pretty: a unit is kept up to ten thousand of it.
        if value < 10 * 1024 || unit == "TB" {
            return format!("{value} {unit}");
        }
        value = value.saturating_add(512) / 1024;
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::RelationId;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, set, verdicts};

    #[test]
    fn the_limit_counts_what_is_moved_and_the_other_databases() {
        let mut facts = facts();
        facts.source.objects.database_bytes = 100;
        facts.choices.checks.total_bytes_max = Some(100);
        assert_eq!(source_size(&facts), []);
        facts.choices.others.bytes = 1;
        assert_eq!(verdicts(source_size(&facts)), [Verdict::Block]);
        // With tables left behind only the others count, with their indexes.
        facts.source.catalog.tables.push(crate::catalog::testing::keyed(2, "left"));
        facts.source.catalog.tables[0].bytes = 40;
        facts.source.catalog.tables[1].bytes = 4000;
        facts.source.objects.index_bytes.insert(RelationId::new(1), 10);
        facts.choices.skip.insert(RelationId::new(2));
        assert_eq!(facts.bytes(), 50);
        assert_eq!(source_size(&facts), []);
    }

    #[test]
    fn a_disk_nobody_tells_of_is_unknown() {
        let mut facts = facts();
        facts.source.objects.database_bytes = 10 << 30;
        facts.choices.checks.target_free_bytes = None;
        assert_eq!(verdicts(target_disk(&facts)), [Verdict::Unknown]);
        facts.choices.checks.target_free_bytes = Some(12 << 30);
        let found = target_disk(&facts);
        assert!(found[0].message.contains("12 GB free, and the 10 GB to be moved want 13 GB"), "{found:?}");
        assert_eq!(verdicts(found), [Verdict::Block]);
        facts.choices.checks.target_free_bytes = Some(13 << 30);
        assert_eq!(target_disk(&facts), []);
    }

    #[test]
    fn more_tables_than_locks_are_felt() {
        let mut facts = facts();
        let settings = [("max_connections", "99"), ("max_locks_per_transaction", "64")];
        set(&mut facts.source.server, &settings);
        for (tables, expected) in
            [(6400, vec![]), (6401, vec![Verdict::Warn]), (16_401, vec![Verdict::Block])]
        {
            facts.source.objects.lockable = tables;
            assert_eq!(verdicts(lock_table(&facts)), expected, "{tables}");
        }
        assert!(lock_table(&facts)[0].fix.as_deref().unwrap().contains("max_locks_per_transaction = 329"));
        facts.source.server.surroundings.settings.clear();
        assert_eq!(lock_table(&facts), []);
    }

    #[test]
    fn sizes_read_as_the_servers() {
        assert_eq!(size(10 * 1024 - 1), "10239 bytes");
        assert_eq!(size(10 * 1024), "10 kB");
        assert_eq!(size(13 << 30), "13 GB");
        assert_eq!(size(3 << 50), "3072 TB");
    }
}
