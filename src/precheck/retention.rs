//! Checks of what the source keeps for us, and for how long: WAL, an idle slot, transaction ids.

use std::time::Duration;

use crate::precheck::facts::Facts;
use crate::precheck::hint::Knob;
use crate::precheck::provider::Provider;
use crate::precheck::room::size;
use crate::precheck::table::Finding;

/// A limit below this is soon reached, however small the database is.
const WAL_BYTES_MIN: u64 = 1 << 30;
/// A slot that nobody reads for this long belongs to a migration that was forgotten.
const IDLE_MIN: Duration = Duration::from_secs(24 * 3600);
/// Ages of transaction ids from which on a long snapshot is felt, and from which on it is a danger (P28).
const XIDS_FELT: u64 = 500_000_000;
const XIDS_MAX: u64 = 1_200_000_000;

/// P16: past the limit the slot is lost for good, and the migration with it.
pub(super) fn wal_kept(facts: &Facts) -> Vec<Finding> {
    let server = &facts.source.server;
    // In megabytes; -1 is no limit.
    let limit =
        server.surroundings.number("max_slot_wal_keep_size").and_then(|limit| u64::try_from(limit).ok());
    let Some(limit) = limit.map(|megabytes| megabytes.saturating_mul(1 << 20)) else { return Vec::new() };
    // A database that is written over once while it moves.
    let wanted = facts.bytes().max(WAL_BYTES_MIN);
    if limit >= wanted {
        return Vec::new();
    }
    let value = format!("{}MB", wanted.saturating_mul(2) >> 20);
    vec![
        Finding::warn(format!(
            "The source keeps {} of WAL for a slot (max_slot_wal_keep_size) and then drops it; while {} are moved, \
             more may be written.",
            size(limit),
            size(facts.bytes())
        ))
        .fix(server.provider.hint(Knob::AtOnce, &[("name", "max_slot_wal_keep_size"), ("value", &value)])),
    ]
}

/// P17: a slot that nobody reads, between an interrupt and the next run, is dropped.
pub(super) fn idle_slots(facts: &Facts) -> Vec<Finding> {
    let server = &facts.source.server;
    let timeout = server.surroundings.number("idle_replication_slot_timeout");
    let seconds = timeout.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    if let Some(seconds) = seconds.filter(|seconds| Duration::from_secs(*seconds) < IDLE_MIN) {
        return vec![
            Finding::warn(format!(
                "The source drops a slot that nobody has read for {seconds} s (idle_replication_slot_timeout): a \
                 migration that is interrupted for longer begins anew."
            ))
            .fix(server.provider.hint(
                Knob::AtOnce,
                &[("name", "idle_replication_slot_timeout"), ("value", "0")],
            )),
        ];
    }
    match server.provider {
        Provider::Neon => vec![Finding::warn(
            "Neon removes a slot that has not moved for about 75 minutes while another is read: a migration that is \
             interrupted for longer begins anew.",
        )],
        Provider::SelfManaged
        | Provider::Rds
        | Provider::Aurora
        | Provider::CloudSql
        | Provider::Azure
        | Provider::Aiven
        | Provider::Supabase
        | Provider::Heroku => Vec::new(),
    }
}

/// P28: our snapshot holds back vacuum on a cluster that lives by it.
pub(super) fn wraparound(facts: &Facts) -> Vec<Finding> {
    let age = &facts.source.age;
    let oldest = age.xids.max(age.multixacts);
    let what = if age.xids >= age.multixacts { "transaction ids" } else { "multixact ids" };
    let message = format!("The {what} of database {} are {} million old", age.database, oldest / 1_000_000);
    let fix = format!("In database {}: VACUUM (FREEZE);", age.database);
    if oldest > XIDS_MAX {
        return vec![
            Finding::block(format!(
                "{message}: a long snapshot could bring the source to the point where it takes no more writes."
            ))
            .fix(fix),
        ];
    }
    if oldest > XIDS_FELT {
        return vec![
            Finding::warn(format!("{message}: while we copy, vacuum cannot make them younger.")).fix(fix),
        ];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, set, verdicts};

    #[test]
    fn a_limit_below_the_databases_size_is_tight() {
        let mut facts = facts();
        facts.source.objects.database_bytes = 3 << 30;
        for (megabytes, expected) in [("-1", vec![]), ("2048", vec![Verdict::Warn]), ("3072", vec![])] {
            set(&mut facts.source.server, &[("max_slot_wal_keep_size", megabytes)]);
            assert_eq!(verdicts(wal_kept(&facts)), expected, "{megabytes}");
        }
        facts.source.objects.database_bytes = 1;
        set(&mut facts.source.server, &[("max_slot_wal_keep_size", "512")]);
        let fix = wal_kept(&facts)[0].fix.clone().unwrap();
        assert!(fix.starts_with("ALTER SYSTEM SET max_slot_wal_keep_size = '2048MB'"), "{fix}");
    }

    #[test]
    fn those_who_reap_idle_slots_are_known() {
        let mut facts = facts();
        for (seconds, expected) in [("0", vec![]), ("3600", vec![Verdict::Warn]), ("86400", vec![])] {
            set(&mut facts.source.server, &[("idle_replication_slot_timeout", seconds)]);
            assert_eq!(verdicts(idle_slots(&facts)), expected, "{seconds}");
        }
        facts.source.server.provider = Provider::Neon;
        assert_eq!(verdicts(idle_slots(&facts)), [Verdict::Warn]);
    }

    #[test]
    fn old_ids_warn_and_older_ones_block() {
        let mut facts = facts();
        let cases =
            [(XIDS_FELT, vec![]), (XIDS_FELT + 1, vec![Verdict::Warn]), (XIDS_MAX + 1, vec![Verdict::Block])];
        for (age, expected) in cases {
            (facts.source.age.xids, facts.source.age.multixacts) = (age, 0);
            assert_eq!(verdicts(wraparound(&facts)), expected);
            (facts.source.age.xids, facts.source.age.multixacts) = (0, age);
            assert_eq!(verdicts(wraparound(&facts)), expected);
        }
    }
}
