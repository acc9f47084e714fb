//! Checks of extensions beyond their being there: rights, libraries, tables and jobs of theirs.

use crate::pg::Identifier;
use crate::precheck::facts::{AvailableExtension, Facts, Trial};
use crate::precheck::hint::Knob;
use crate::precheck::table::Finding;
use crate::precheck::target::is_older;

/// Why an extension wants its library preloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// CREATE EXTENSION fails without.
    ToBeCreated,
    /// It can be created, and does nothing.
    ToWork,
}

/// Extension, library, need.
const PRELOADED: [(&str, &str, Need); 19] = [
    ("bdr", "bdr", Need::ToBeCreated),
    ("citus", "citus", Need::ToBeCreated),
    ("pg_cron", "pg_cron", Need::ToBeCreated),
    ("pg_net", "pg_net", Need::ToBeCreated),
    ("pg_squeeze", "pg_squeeze", Need::ToBeCreated),
    ("pgaudit", "pgaudit", Need::ToBeCreated),
    ("pglogical", "pglogical", Need::ToBeCreated),
    ("timescaledb", "timescaledb", Need::ToBeCreated),
    ("age", "age", Need::ToWork),
    ("anon", "anon", Need::ToWork),
    ("pg_hint_plan", "pg_hint_plan", Need::ToWork),
    ("pg_partman", "pg_partman_bgw", Need::ToWork),
    ("pg_qualstats", "pg_qualstats", Need::ToWork),
    ("pg_stat_kcache", "pg_stat_kcache", Need::ToWork),
    ("pg_stat_monitor", "pg_stat_monitor", Need::ToWork),
    ("pg_stat_statements", "pg_stat_statements", Need::ToWork),
    ("pg_wait_sampling", "pg_wait_sampling", Need::ToWork),
    ("plrust", "plrust", Need::ToWork),
    ("set_user", "set_user", Need::ToWork),
];

/// Whether an extension's script may do what no rollback undoes; such a one is not tried.
pub(super) fn reaches_beyond(name: &str) -> bool {
    PRELOADED.iter().any(|(extension, _, need)| *extension == name && *need == Need::ToBeCreated)
}

/// Extensions of the source that have still to be created on the target, and can be had there.
fn to_create(facts: &Facts) -> impl Iterator<Item = (&str, &AvailableExtension)> {
    let target = &facts.target;
    let missing = facts.source.extensions.iter().filter(|(name, _)| !target.installed.contains_key(name));
    missing.filter_map(|(name, _)| Some((name.as_str(), target.extensions.get(name)?)))
}

/// P78: superuser, trusted, allowed by a list, or tried.
pub(super) fn rights(facts: &Facts) -> Vec<Finding> {
    to_create(facts).filter_map(|(name, offer)| right(facts, name, offer)).collect()
}

fn right(facts: &Facts, name: &str, offer: &AvailableExtension) -> Option<Finding> {
    let server = &facts.target.server;
    let may = &server.may;
    if may.is_superuser || (may.may_create_in_database && offer.is_trusted) {
        return None;
    }
    let refused = |why: &str| {
        let message = format!("Role {} may not create extension {name} on the target: {why}", may.role);
        Some(Finding::block(message).fix(server.provider.hint(Knob::AllowExtension, &[("name", name)])))
    };
    match facts.target.extension_trials.get(name) {
        Some(Trial::Allowed) => None,
        Some(Trial::Refused { message, .. }) => refused(message),
        Some(Trial::NotTried) | None => match allowed(facts, name) {
            Some(true) => None,
            Some(false) => refused("it is not on the list of those that the service allows."),
            None => Some(Finding::unknown(format!(
                "Whether role {} may create extension {name} on the target shows only when it is created.",
                may.role
            ))),
        },
    }
}

/// What the target's allow-lists say; `None` where it has none.
fn allowed(facts: &Facts, name: &str) -> Option<bool> {
    let surroundings = &facts.target.server.surroundings;
    ["extwlist.extensions", "rds.allowed_extensions", "azure.extensions"]
        .into_iter()
        .filter_map(|list| surroundings.list(list))
        .map(|list| list.iter().any(|one| *one == "*" || one.eq_ignore_ascii_case(name)))
        .reduce(|one, other| one || other)
}

/// P78: what is there already must be where the source's objects look for it.
pub(super) fn installed(facts: &Facts) -> Vec<Finding> {
    let judge = |(name, version): &(String, String)| {
        let there = facts.target.installed.get(name)?;
        let quoted = Identifier::new(name.as_str());
        if let Some(schema) =
            facts.source.extension_schemas.get(name).filter(|schema| **schema != there.schema)
        {
            let message = format!(
                "Extension {name} is in schema {} on the target and in {schema} on the source: definitions that name \
                 its objects will not find them.",
                there.schema
            );
            return Some(Finding::block(message).fix(format!(
                "On the target: DROP EXTENSION {quoted}; CREATE EXTENSION {quoted} SCHEMA {};",
                Identifier::new(schema.as_str())
            )));
        }
        is_older(&there.version, version).then(|| {
            Finding::warn(format!(
                "Extension {name} is {version} on the source and {} on the target.",
                there.version
            ))
            .fix(format!("On the target: ALTER EXTENSION {quoted} UPDATE;"))
        })
    };
    facts.source.extensions.iter().filter_map(judge).collect()
}

/// P78.
pub(super) fn preload(facts: &Facts) -> Vec<Finding> {
    let libraries = |server: &crate::precheck::facts::ServerFacts| {
        let list = server.surroundings.list("shared_preload_libraries")?;
        Some(list.into_iter().map(str::to_owned).collect::<Vec<String>>())
    };
    let (here, there) = (libraries(&facts.source.server), libraries(&facts.target.server));
    let wanted = |name: &str| {
        facts.source.extensions.iter().any(|(one, _)| one == name)
            && facts.target.extensions.contains_key(name)
    };
    let judge = |(extension, library, need): &(&str, &str, Need)| {
        if !wanted(extension) {
            return None;
        }
        let fix = || facts.target.server.provider.hint(Knob::Preload, &[("name", library)]);
        let holds =
            |list: &Option<Vec<String>>| list.as_ref().map(|list| list.iter().any(|one| one == library));
        match (need, holds(&there), holds(&here)) {
            (_, Some(true), _) => None,
            (Need::ToBeCreated, Some(false), _) => Some(
                Finding::block(format!(
                    "Extension {extension} can only be created where {library} is preloaded, and the target does not."
                ))
                .fix(fix()),
            ),
            (Need::ToBeCreated, None, _) => Some(Finding::unknown(format!(
                "Extension {extension} wants {library} preloaded, and the target does not show our role whether it is."
            ))),
            (Need::ToWork, Some(false), Some(true)) => Some(
                Finding::warn(format!(
                    "The source preloads {library} for extension {extension}; on the target it will do nothing without."
                ))
                .fix(fix()),
            ),
            // Not shown, or not at work on the source either.
            (Need::ToWork, Some(false), Some(false) | None) | (Need::ToWork, None, _) => None,
        }
    };
    PRELOADED.iter().filter_map(judge).collect()
}

/// P45.
pub(super) fn timescaledb(facts: &Facts) -> Vec<Finding> {
    let count = match facts.source.objects.hypertables {
        Some(0) => return Vec::new(),
        Some(count) => format!("{count} hypertables"),
        None => "TimescaleDB, whose hypertables our role may not count".to_owned(),
    };
    vec![
        Finding::block(format!(
            "The source has {count}: their rows live in chunks that only the extension itself may create, so neither \
             stream nor copy can fill them."
        ))
        .fix(
            "Leave the hypertables out with --skip-table and carry them by TimescaleDB's own means \
             (timescaledb-backfill, or pg_dump with timescaledb_pre_restore() and timescaledb_post_restore())",
        ),
    ]
}

/// P46.
pub(super) fn jobs(facts: &Facts) -> Vec<Finding> {
    let active = facts.source.objects.jobs.iter().filter(|jobs| jobs.count != Some(0));
    let told = active.map(|jobs| {
        let count = jobs.count.map_or_else(|| "has".to_owned(), |count| format!("has {count}"));
        Finding::warn(format!(
            "{} {count} {} on the source: run on both servers they write twice.",
            jobs.extension, jobs.what
        ))
        .fix(jobs.stop)
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::facts::InstalledExtension;
    use crate::precheck::objects::Jobs;
    use crate::precheck::provider::Provider;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, set, verdicts};

    /// The source has it, the target could create it.
    fn with_extension(name: &str, offer: AvailableExtension) -> Facts {
        let mut facts = facts();
        facts.source.extensions = vec![(name.to_owned(), "1.10".to_owned())];
        facts.source.extension_schemas.insert(name.to_owned(), "public".to_owned());
        facts.target.extensions.insert(name.to_owned(), offer);
        facts
    }

    #[test]
    fn whoever_may_create_it_passes() {
        let mut facts = with_extension(
            "hstore",
            AvailableExtension { is_trusted: true, ..AvailableExtension::default() },
        );
        assert_eq!(rights(&facts), []);
        facts.target.server.may.may_create_in_database = false;
        assert_eq!(verdicts(rights(&facts)), [Verdict::Unknown]);
        facts.target.server.may.is_superuser = true;
        assert_eq!(rights(&facts), []);
    }

    #[test]
    fn a_try_outweighs_every_list() {
        let mut facts = with_extension("postgis", AvailableExtension::default());
        set(&mut facts.target.server, &[("azure.extensions", "hstore,POSTGIS")]);
        assert_eq!(rights(&facts), []);
        let refused = Trial::Refused { message: "permission denied".to_owned(), advice: None };
        facts.target.extension_trials.insert("postgis".to_owned(), refused);
        facts.target.server.provider = Provider::Azure;
        let found = rights(&facts);
        assert!(
            found[0].fix.as_deref().unwrap().contains("Add postgis to the server parameter azure.extensions")
        );
        assert_eq!(verdicts(found), [Verdict::Block]);
        facts.target.extension_trials.insert("postgis".to_owned(), Trial::Allowed);
        set(&mut facts.target.server, &[("azure.extensions", "")]);
        assert_eq!(rights(&facts), []);
    }

    #[test]
    fn what_is_not_tried_is_left_to_the_lists() {
        let mut facts = with_extension("pg_cron", AvailableExtension::default());
        assert!(reaches_beyond("pg_cron") && !reaches_beyond("pg_stat_statements"));
        assert_eq!(verdicts(rights(&facts)), [Verdict::Unknown]);
        for (list, expected) in [("pg_cron", vec![]), ("*", vec![]), ("hstore", vec![Verdict::Block])] {
            set(&mut facts.target.server, &[("rds.allowed_extensions", list)]);
            assert_eq!(verdicts(rights(&facts)), expected, "{list}");
        }
    }

    #[test]
    fn an_extension_that_is_there_must_be_in_its_place() {
        let mut facts = with_extension("hstore", AvailableExtension::default());
        let there = |version: &str, schema: &str| InstalledExtension {
            version: version.to_owned(),
            schema: schema.to_owned(),
        };
        for (there, expected) in [
            (there("1.10", "public"), vec![]),
            (there("1.11", "public"), vec![]),
            (there("1.9", "public"), vec![Verdict::Warn]),
            (there("1.10", "ext"), vec![Verdict::Block]),
        ] {
            facts.target.installed.insert("hstore".to_owned(), there);
            assert_eq!(verdicts(installed(&facts)), expected);
            assert_eq!(rights(&facts), []);
        }
    }

    #[test]
    fn libraries_are_preloaded_where_they_must() {
        let mut facts = with_extension("pg_cron", AvailableExtension::default());
        assert_eq!(verdicts(preload(&facts)), [Verdict::Unknown]);
        set(&mut facts.target.server, &[("shared_preload_libraries", "pgaudit")]);
        assert_eq!(verdicts(preload(&facts)), [Verdict::Block]);
        set(&mut facts.target.server, &[("shared_preload_libraries", "pgaudit, pg_cron")]);
        assert_eq!(preload(&facts), []);
        let mut facts = with_extension("pg_stat_statements", AvailableExtension::default());
        set(&mut facts.target.server, &[("shared_preload_libraries", "")]);
        assert_eq!(preload(&facts), [], "the source does without, too");
        set(&mut facts.source.server, &[("shared_preload_libraries", "pg_stat_statements")]);
        assert_eq!(verdicts(preload(&facts)), [Verdict::Warn]);
    }

    #[test]
    fn what_extensions_do_by_themselves_is_said() {
        let mut facts = facts();
        let jobs_of =
            |count| Jobs { extension: "pg_cron".to_owned(), what: "jobs", count, stop: "Stop them" };
        for (count, expected) in
            [(Some(0), vec![]), (Some(2), vec![Verdict::Warn]), (None, vec![Verdict::Warn])]
        {
            facts.source.objects.jobs = vec![jobs_of(count)];
            assert_eq!(verdicts(jobs(&facts)), expected);
        }
        for (count, expected) in
            [(Some(0), vec![]), (Some(2), vec![Verdict::Block]), (None, vec![Verdict::Block])]
        {
            facts.source.objects.hypertables = count;
            assert_eq!(verdicts(timescaledb(&facts)), expected);
        }
    }
}
