//! Checks of what streaming needs from the source.

use std::collections::{BTreeMap, HashSet};

use crate::pg::{Identifier, RelationId, quote_literal};
use crate::precheck::facts::{Facts, Installable, RelationRights, Trial};
use crate::precheck::hint::Knob;
use crate::precheck::options::Resuming;
use crate::precheck::table::{Finding, NAMED, listing};

/// What to add to a limit that is too low: one for the stream, one for a table copied again, and as many
/// for the next database.
const SPARE: u32 = 4;

/// P01.
pub(super) fn wal_level(facts: &Facts) -> Vec<Finding> {
    let source = &facts.source;
    if source.wal_level == "logical" || source.raises_wal_level {
        return Vec::new();
    }
    vec![
        Finding::block(format!(
            "wal_level is {} on the source: without logical WAL there is no change stream.",
            source.wal_level
        ))
        .fix(source.server.provider.hint(Knob::LogicalWal, &[])),
    ]
}

/// P02: one slot for each database's stream, one short-lived one for tables copied again after an interruption.
/// A run that is resumed has its slots already.
pub(super) fn slots(facts: &Facts) -> Vec<Finding> {
    let slots = &facts.source.slots;
    let others = facts.choices.others.databases;
    let mut fix = raise(facts, "max_replication_slots", slots.slots_max + others + SPARE);
    let inactive = match slots.inactive.first() {
        None => "none of them is inactive".to_owned(),
        Some((name, _)) => {
            // Whose slot it is we cannot know, so it is named and never dropped by us.
            let name = quote_literal(name);
            fix += &format!("; or, if nobody needs it any more, SELECT pg_drop_replication_slot({name});");
            let each =
                slots.inactive.iter().map(|(name, bytes)| format!("{name} ({} MB of WAL kept)", bytes >> 20));
            format!("inactive: {}", listing(each))
        }
    };
    let free = slots.slots_max.saturating_sub(slots.slots_used);
    match (free.checked_sub(others), facts.choices.resuming) {
        (None | Some(0), Resuming::No) => vec![
            Finding::block(match (free, others) {
                (0, _) => {
                    format!("All {} replication slots of the source are in use; {inactive}.", slots.slots_max)
                }
                _ => format!(
                    "Each of {} databases takes a replication slot, and of the source's {} only {free} are free; \
                     {inactive}.",
                    others.saturating_add(1),
                    slots.slots_max
                ),
            })
            .fix(fix),
        ],
        (Some(1), Resuming::No) | (None | Some(0), Resuming::Yes) => vec![
            Finding::warn(format!(
                "Of {} replication slots none is left to copy a table again after an interruption; {inactive}.",
                slots.slots_max
            ))
            .fix(fix),
        ],
        (_, Resuming::No | Resuming::Yes) => Vec::new(),
    }
}

/// P02.
pub(super) fn senders(facts: &Facts) -> Vec<Finding> {
    let slots = &facts.source.slots;
    let others = facts.choices.others.databases;
    let fix = raise(facts, "max_wal_senders", slots.senders_max + others + SPARE);
    let free = slots.senders_max.saturating_sub(slots.senders_used);
    match (free.checked_sub(others), free) {
        (None | Some(0), 0) => {
            vec![
                Finding::block(format!("All {} walsenders of the source are in use.", slots.senders_max))
                    .fix(fix),
            ]
        }
        (None | Some(0), _) => vec![
            Finding::block(format!(
                "Each of {} databases takes a walsender, and of the source's {} only {free} are free.",
                others.saturating_add(1),
                slots.senders_max
            ))
            .fix(fix),
        ],
        (Some(1), 1) => vec![
            Finding::warn(format!(
                "One walsender of {} is free: none is left to copy a table again while changes are spooled, or after an interruption.",
                slots.senders_max
            ))
            .fix(fix),
        ],
        (Some(1), _) => vec![
            Finding::warn(format!(
                "Of {} walsenders none is left to copy a table again while changes are spooled, or after an interruption.",
                slots.senders_max
            ))
            .fix(fix),
        ],
        (Some(_), _) => Vec::new(),
    }
}

/// How a limit of the source's that needs a restart is raised.
fn raise(facts: &Facts, name: &str, value: u32) -> String {
    facts.source.server.provider.hint(Knob::AtStart, &[("name", name), ("value", &value.to_string())])
}

/// P04: a connection that was tried outweighs any attribute.
pub(super) fn replication_right(facts: &Facts) -> Vec<Finding> {
    let server = &facts.source.server;
    let fix = || {
        let role = Identifier::new(&server.may.role).to_string();
        server.provider.hint(Knob::Replication, &[("role", &role)])
    };
    match &facts.source.replication {
        Trial::Allowed => Vec::new(),
        Trial::NotTried if server.may.may_replicate => Vec::new(),
        Trial::NotTried => {
            vec![
                Finding::block(format!("Role {} may not replicate from the source.", server.may.role))
                    .fix(fix()),
            ]
        }
        Trial::Refused { message, advice } => vec![
            Finding::block(format!("The source does not let role {} replicate: {message}", server.may.role))
                .fix(advice.clone().unwrap_or_else(fix)),
        ],
    }
}

/// P05: CREATE on the database, and the rights of every table's owner; or an extension that has them.
pub(super) fn publication_right(facts: &Facts) -> Vec<Finding> {
    let may = &facts.source.server.may;
    let obstacles = publication_obstacles(facts);
    match facts.source.aiven_extras {
        _ if obstacles.is_empty() || may.publishes_through_aiven_extras => Vec::new(),
        Installable::No => obstacles,
        Installable::Yes => vec![
            Finding::block(format!(
                "Role {} may not publish the tables by itself; extension aiven_extras, which it can install on the \
                 source, does it for it.",
                may.role
            ))
            .fix("CREATE EXTENSION aiven_extras CASCADE;"),
        ],
    }
}

fn publication_obstacles(facts: &Facts) -> Vec<Finding> {
    let server = &facts.source.server;
    let role = Identifier::new(&server.may.role);
    let mut found = Vec::new();
    if !server.may.may_create_in_database {
        let database = Identifier::new(&server.database);
        found.push(
            Finding::block(format!(
                "Role {} may not create a publication in database {database}.",
                server.may.role
            ))
            .fix(format!("GRANT CREATE ON DATABASE {database} TO {role};")),
        );
    } else if let Trial::Refused { message, .. } = &facts.source.publication {
        found.push(Finding::block(format!("The source refuses to create a publication: {message}")));
    }

    let streamed: HashSet<RelationId> = facts.streamed_tables().map(|table| table.oid).collect();
    let mut by_owner: BTreeMap<&str, Vec<&RelationRights>> = BTreeMap::new();
    for right in facts.source.rights.iter().filter(|right| !right.is_owned && streamed.contains(&right.oid)) {
        by_owner.entry(&right.owner).or_default().push(right);
    }
    found.extend(by_owner.into_iter().map(|(owner, rights)| {
        // Membership in a superuser's role would hand over the whole cluster.
        let from_superuser = rights.iter().any(|right| right.owner_is_superuser);
        let fix = match (from_superuser, rights.len()) {
            (false, _) => format!("GRANT {} TO {role};", Identifier::new(owner)),
            (true, ..=NAMED) => {
                let each = rights.iter().map(|right| format!("ALTER TABLE {} OWNER TO {role};", right.name));
                format!("Connect to the source as {owner}, or {}", each.collect::<Vec<_>>().join(" "))
            }
            (true, _) => format!("Connect to the source as {owner}"),
        };
        let tables = listing(rights.iter().map(|right| right.name.plain()));
        Finding::block(format!("Only the owner {owner} may publish {tables}.")).fix(fix)
    }));
    found
}

/// P12, P22: the slot waits for each of them, and so would we.
pub(super) fn prepared(facts: &Facts) -> Vec<Finding> {
    let each = facts.source.prepared.iter().map(|found| {
        let finding = Finding::warn(format!(
            "Prepared transaction {} of database {} delays the slot until it is resolved.",
            found.gid, found.database
        ));
        let gid = quote_literal(&found.gid);
        finding.fix(format!("COMMIT PREPARED {gid}; or ROLLBACK PREPARED {gid};"))
    });
    each.collect()
}

/// P12.
pub(super) fn writers(facts: &Facts) -> Vec<Finding> {
    let writers = &facts.source.writers;
    if writers.is_empty() {
        return Vec::new();
    }
    let each = writers.iter().map(|writer| {
        let age = writer.age.map_or_else(|| "age unknown".to_owned(), |age| format!("{} s", age.as_secs()));
        format!("pid {} ({} in {}, {age})", writer.pid, writer.role, writer.database)
    });
    let pids = writers.iter().map(|writer| writer.pid.to_string()).collect::<Vec<_>>().join(", ");
    vec![
        Finding::warn(format!(
            "The slot is ready only when these transactions have ended: {}.",
            listing(each)
        ))
        .fix(format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ({pids}); or wait for them"
        )),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::facts::{PreparedTransaction, Writer};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, rights, verdicts};
    use std::time::Duration;

    fn refused(advice: Option<&str>) -> Trial {
        Trial::Refused { message: "no".to_owned(), advice: advice.map(str::to_owned) }
    }

    #[test]
    fn only_logical_wal_streams() {
        let mut facts = facts();
        facts.source.wal_level = "replica".to_owned();
        assert_eq!(verdicts(wal_level(&facts)), [Verdict::Block]);
        facts.source.raises_wal_level = true;
        assert_eq!(wal_level(&facts), []);
    }

    #[test]
    fn a_full_slot_table_names_the_idle_ones() {
        let mut facts = facts();
        facts.source.slots.slots_used = facts.source.slots.slots_max;
        facts.source.slots.inactive = vec![("old_debezium".to_owned(), 5 << 20)];
        let found = slots(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Block]);
        assert!(found[0].message.contains("old_debezium (5 MB"), "{}", found[0].message);
        let fix = found[0].fix.as_deref().unwrap();
        assert!(fix.contains("max_replication_slots = 14;") && fix.contains("('old_debezium')"), "{fix}");
        facts.choices.resuming = Resuming::Yes;
        assert_eq!(verdicts(slots(&facts)), [Verdict::Warn]);
        facts.choices.resuming = Resuming::No;
        facts.source.slots.slots_used -= 1;
        assert_eq!(verdicts(slots(&facts)), [Verdict::Warn]);
        facts.source.slots.slots_used -= 1;
        assert_eq!(slots(&facts), []);
    }

    #[test]
    fn walsenders_are_counted() {
        let mut facts = facts();
        for (free, expected) in [(0, vec![Verdict::Block]), (1, vec![Verdict::Warn]), (2, vec![])] {
            facts.source.slots.senders_used = facts.source.slots.senders_max - free;
            assert_eq!(verdicts(senders(&facts)), expected);
        }
    }

    #[test]
    fn a_trial_outweighs_the_attribute() {
        let mut facts = facts();
        facts.source.server.may.may_replicate = false;
        facts.source.replication = Trial::NotTried;
        assert_eq!(verdicts(replication_right(&facts)), [Verdict::Block]);
        facts.source.replication = Trial::Allowed;
        assert_eq!(replication_right(&facts), []);
        facts.source.server.may.may_replicate = true;
        facts.source.replication = refused(None);
        assert!(replication_right(&facts)[0].fix.as_deref().unwrap().starts_with("ALTER ROLE"));
        facts.source.replication = refused(Some("Go round the pooler."));
        let found = replication_right(&facts);
        assert_eq!(found[0].fix.as_deref(), Some("Go round the pooler."));
        assert_eq!(verdicts(found), [Verdict::Block]);
    }

    #[test]
    fn publishing_takes_the_database_and_every_table() {
        let mut facts = facts();
        facts.source.rights = vec![rights(1, "orders")];
        facts.source.rights[0].is_owned = false;
        let found = publication_right(&facts);
        assert_eq!(found[0].fix.as_deref(), Some("GRANT \"app\" TO \"mover\";"));
        facts.source.rights[0].owner_is_superuser = true;
        let fix = publication_right(&facts)[0].fix.clone().unwrap();
        assert!(
            !fix.contains("GRANT") && fix.contains("ALTER TABLE \"public\".\"orders\" OWNER TO \"mover\"")
        );
        // A table left behind is not published.
        facts.choices.skip.insert(RelationId::new(1));
        assert_eq!(publication_right(&facts), []);
        facts.source.publication = refused(None);
        assert_eq!(verdicts(publication_right(&facts)), [Verdict::Block]);
        facts.source.server.may.may_create_in_database = false;
        assert!(publication_right(&facts)[0].fix.as_deref().unwrap().starts_with("GRANT CREATE ON DATABASE"));
    }

    #[test]
    fn every_database_of_the_run_takes_a_slot_and_a_walsender() {
        let mut facts = facts();
        // Nine are free.
        for (others, expected) in [(7, vec![]), (8, vec![Verdict::Warn]), (9, vec![Verdict::Block])] {
            facts.choices.others.databases = others;
            assert_eq!(verdicts(slots(&facts)), expected, "{others}");
            assert_eq!(verdicts(senders(&facts)), expected, "{others}");
        }
        assert!(slots(&facts)[0].message.contains("Each of 10 databases takes a replication slot"));
    }

    #[test]
    fn a_function_of_a_superuser_publishes_for_us() {
        let mut facts = facts();
        facts.source.rights = vec![rights(1, "orders")];
        facts.source.rights[0].is_owned = false;
        assert_eq!(verdicts(publication_right(&facts)), [Verdict::Block]);
        facts.source.aiven_extras = Installable::Yes;
        let found = publication_right(&facts);
        assert_eq!(found[0].fix.as_deref(), Some("CREATE EXTENSION aiven_extras CASCADE;"));
        assert_eq!(verdicts(found), [Verdict::Block]);
        facts.source.server.may.publishes_through_aiven_extras = true;
        assert_eq!(publication_right(&facts), []);
        facts.source.server.may.publishes_through_aiven_extras = false;
        // Who needs no help is not told of any.
        facts.source.rights[0].is_owned = true;
        assert_eq!(publication_right(&facts), []);
    }

    #[test]
    fn what_delays_the_slot_is_named() {
        let mut facts = facts();
        assert_eq!((prepared(&facts), writers(&facts)), (vec![], vec![]));
        facts.source.prepared =
            vec![PreparedTransaction { gid: "it's".to_owned(), database: "other".to_owned() }];
        assert!(prepared(&facts)[0].fix.as_deref().unwrap().contains("ROLLBACK PREPARED 'it''s'"));
        facts.source.writers = vec![Writer {
            pid: 4711,
            database: "shop".to_owned(),
            role: "app".to_owned(),
            age: Some(Duration::from_secs(90)),
        }];
        assert!(writers(&facts)[0].message.contains("pid 4711 (app in shop, 90 s)"));
    }
}
