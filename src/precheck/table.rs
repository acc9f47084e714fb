//! The table of checks: every one has an id that never changes, a title that is true when it passes, and
//! a function from facts to findings.

use crate::precheck::facts::{Facts, Trial, TrialRestored};
use crate::precheck::options::Method;
use crate::precheck::report::{Outcome, Report, Verdict};
use crate::precheck::{
    code, constraint, content, cut, definition, extension, foreign_key, identity, locale, retention, role,
    room, route, server, setting, stream, target, value,
};

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// One sentence: what, and why it matters.
    pub message: String,
    /// The command, setting or option that mends it.
    pub fix: Option<String>,
}

impl Finding {
    /// The migration cannot start.
    pub(super) fn block(message: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Block, message: message.into(), fix: None }
    }

    /// The migration can start, and this will be felt.
    pub(super) fn warn(message: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Warn, message: message.into(), fix: None }
    }

    /// We could not look.
    pub(super) fn unknown(message: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Unknown, message: message.into(), fix: None }
    }

    /// What mends it.
    pub(super) fn fix(mut self, fix: impl Into<String>) -> Finding {
        self.fix = Some(fix.into());
        self
    }
}

/// When a check matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Always.
    Any,
    /// Only when changes are to be streamed.
    Replication,
    /// Only under `--dbs-max-total-size`.
    SizeLimit,
    /// Only where the conductor looked for the tools.
    Tools,
    /// Only under `--trial-restore`.
    TrialRestore,
}

impl Scope {
    /// Whether a check of this scope says anything of the facts. What was not looked at must not pass.
    fn holds(self, facts: &Facts) -> bool {
        match self {
            Scope::Any => true,
            Scope::Replication => facts.choices.method == Method::Replication,
            Scope::SizeLimit => facts.choices.checks.total_bytes_max.is_some(),
            Scope::Tools => facts.tools != Trial::NotTried,
            Scope::TrialRestore => facts.trial_restore != TrialRestored::NotAsked,
        }
    }
}

/// One check.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Stable name, for machines.
    pub id: &'static str,
    /// What holds when it passes.
    pub title: &'static str,
    /// When it matters.
    pub scope: Scope,
    /// Judges the facts; nothing found is a pass.
    pub run: fn(&Facts) -> Vec<Finding>,
}

const fn check(
    id: &'static str,
    title: &'static str,
    scope: Scope,
    run: fn(&Facts) -> Vec<Finding>,
) -> Check {
    Check { id, title, scope, run }
}

/// Every check, in the order in which people want to read them.
pub static CHECKS: &[Check] = &[
    check("same-database", "source and target are not the same database", Scope::Any, server::same_database),
    check("source-version", "the source is PostgreSQL 10 or newer", Scope::Any, server::source_version),
    check("target-version", "the target is not older than the source", Scope::Any, server::target_version),
    check("source-recovery", "the source is a primary", Scope::Any, server::source_recovery),
    check("target-recovery", "the target is a primary", Scope::Any, server::target_recovery),
    check("pooler", "no pooler stands before a server", Scope::Any, route::pooler),
    check("encoding", "the target can hold the source's text", Scope::Any, server::encoding),
    check("locale", "both ends sort text in the same way", Scope::Any, locale::locale),
    check("collations", "the target has the collations that columns use", Scope::Any, locale::collations),
    check("collation-versions", "no collation of the source has changed", Scope::Any, locale::versions),
    check(
        "source-connections",
        "the source has connections to spare",
        Scope::Any,
        server::source_connections,
    ),
    check(
        "target-connections",
        "the target has connections to spare",
        Scope::Any,
        server::target_connections,
    ),
    check("target-disk", "the target has room for the source", Scope::Any, room::target_disk),
    check("source-size", "the source is not larger than was said", Scope::SizeLimit, room::source_size),
    check("lock-table", "the source can lock every table at once", Scope::Any, room::lock_table),
    check("wraparound", "the source's transaction ids are young", Scope::Any, retention::wraparound),
    check("wal-level", "the source writes logical WAL", Scope::Replication, stream::wal_level),
    check("replication-slots", "the source has a free replication slot", Scope::Replication, stream::slots),
    check("wal-senders", "the source has a free walsender", Scope::Replication, stream::senders),
    check("replication-right", "our role may replicate", Scope::Replication, stream::replication_right),
    check(
        "publication-right",
        "our role may publish the tables",
        Scope::Replication,
        stream::publication_right,
    ),
    check("prepared-transactions", "no prepared transaction is open", Scope::Replication, stream::prepared),
    check("long-writers", "no long transaction holds the slot up", Scope::Replication, stream::writers),
    check(
        "wal-kept",
        "the source keeps WAL for as long as it takes",
        Scope::Replication,
        retention::wal_kept,
    ),
    check(
        "idle-slots",
        "the source drops no slot that is idle for a while",
        Scope::Replication,
        retention::idle_slots,
    ),
    check(
        "replica-identity",
        "every table can tell its rows apart",
        Scope::Replication,
        identity::replica_identity,
    ),
    check("skipped-tables", "no table is left behind", Scope::Any, content::skipped),
    check(
        "foreign-keys",
        "no foreign key leads to a table left behind",
        Scope::Any,
        foreign_key::foreign_keys,
    ),
    check("left-out-schemas", "nothing needs a schema that is left out", Scope::Any, cut::schemas),
    check("left-out-extensions", "nothing needs an extension that is left out", Scope::Any, cut::extensions),
    check("views-of-skipped", "nothing shows rows that are left behind", Scope::Any, cut::views),
    check("extension-tables", "extensions keep nothing of the user's", Scope::Any, cut::extension_rows),
    check("readable", "our role may read every table and sequence", Scope::Any, content::readable),
    check("row-security", "no row security hides rows from us", Scope::Any, content::row_security),
    check(
        "large-object-rights",
        "our role may read every large object",
        Scope::Any,
        content::large_object_rights,
    ),
    check("large-objects", "there are no large objects", Scope::Replication, content::large_objects),
    check("unlogged-tables", "every table is in the WAL", Scope::Replication, content::unlogged),
    check("foreign-tables", "there are no foreign tables", Scope::Any, content::foreign_tables),
    check("materialized-views", "no materialized view holds rows", Scope::Any, content::materialized_views),
    check("not-valid", "every constraint was validated", Scope::Any, constraint::not_valid),
    check("ordering", "rows can be written in any order", Scope::Replication, constraint::ordering),
    check(
        "replica-triggers",
        "no trigger fires under the replica role",
        Scope::Replication,
        constraint::replica_triggers,
    ),
    check("event-triggers", "the target gets every event trigger", Scope::Any, code::event_triggers),
    check("invalid-indexes", "every index is valid", Scope::Any, constraint::invalid_indexes),
    check(
        "object-references",
        "no column refers to objects of the catalog",
        Scope::Any,
        value::object_references,
    ),
    check("retired-features", "the target knows every feature in use", Scope::Any, value::retired),
    check(
        "search-path",
        "functions that rows pass through find what they name",
        Scope::Any,
        code::search_path,
    ),
    check("languages", "the target has the languages of functions", Scope::Any, code::languages),
    check(
        "superuser-objects",
        "our role may create every object on the target",
        Scope::Any,
        code::for_superusers,
    ),
    check("target-empty", "the target database is empty", Scope::Any, target::empty),
    check("target-rights", "our role may create schemas on the target", Scope::Any, target::may_create),
    check(
        "replica-role",
        "triggers can be kept quiet on the target",
        Scope::Replication,
        target::replica_role,
    ),
    check("extensions", "the target can create the source's extensions", Scope::Any, target::extensions),
    check("extension-rights", "our role may create the extensions", Scope::Any, extension::rights),
    check(
        "installed-extensions",
        "extensions that the target has already are as the source's",
        Scope::Any,
        extension::installed,
    ),
    check("preload-libraries", "the target preloads what extensions need", Scope::Any, extension::preload),
    check("timescaledb", "there are no hypertables", Scope::Any, extension::timescaledb),
    check("extension-jobs", "no extension runs jobs", Scope::Any, extension::jobs),
    check("roles", "the target has the roles that own or may use objects", Scope::Any, target::roles),
    check("role-attributes", "our role may give every role its attributes", Scope::Any, role::attributes),
    check("passwords", "our role may read password verifiers", Scope::Any, role::passwords),
    check(
        "database-settings",
        "the target's database has the settings of the source's",
        Scope::Any,
        setting::of_the_database,
    ),
    check("timeouts", "no timeout is set for us", Scope::Any, setting::timeouts),
    check("tablespaces", "everything is in the default tablespace", Scope::Any, setting::tablespaces),
    check("security-labels", "there are no security labels", Scope::Any, setting::security_labels),
    check("tools", "fitting tools to carry definitions are on this machine", Scope::Tools, definition::tools),
    check(
        "trial-restore",
        "the definitions restore on the target",
        Scope::TrialRestore,
        definition::trial_restore,
    ),
];

/// Runs every check that matters on the facts.
#[must_use]
pub fn judge(facts: &Facts) -> Report {
    let database = &facts.source.server.database;
    let outcomes = CHECKS.iter().filter(|check| check.scope.holds(facts)).flat_map(|check| {
        let mut findings = (check.run)(facts);
        if findings.is_empty() {
            findings.push(Finding { verdict: Verdict::Pass, message: check.title.to_owned(), fix: None });
        }
        findings.into_iter().map(|finding| Outcome {
            id: check.id,
            database: database.clone(),
            verdict: finding.verdict,
            message: finding.message,
            fix: finding.fix,
        })
    });
    Report::new(outcomes.collect())
}

/// How many objects a sentence or a command names one by one.
pub(super) const NAMED: usize = 20;

/// Names in a sentence: the first few, and how many more.
pub(super) fn listing(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().collect();
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::testing::facts;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_and_for_machines() {
        let ids: HashSet<_> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), CHECKS.len());
        assert!(ids.iter().all(|id| id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
    }

    #[test]
    fn a_sound_pair_passes_every_check() {
        let report = judge(&facts());
        let failed: Vec<_> = report.checks.iter().filter(|found| found.verdict != Verdict::Pass).collect();
        assert!(failed.is_empty(), "{failed:?}");
        let looked_at = CHECKS.iter().filter(|check| check.scope.holds(&facts()));
        assert_eq!(report.checks.len(), looked_at.count());
    }

    #[test]
    fn what_was_not_looked_at_does_not_pass() {
        let ids =
            |facts: &Facts| judge(facts).checks.into_iter().map(|found| found.id).collect::<HashSet<_>>();
        let mut facts = facts();
        for id in ["source-size", "tools", "trial-restore"] {
            assert!(!ids(&facts).contains(id), "{id}");
        }
        facts.choices.checks.total_bytes_max = Some(u64::MAX);
        (facts.tools, facts.trial_restore) = (Trial::Allowed, TrialRestored::Restored);
        for id in ["source-size", "tools", "trial-restore"] {
            assert!(ids(&facts).contains(id), "{id}");
        }
    }

    #[test]
    fn a_plain_dump_asks_nothing_of_the_wal() {
        let mut facts = facts();
        facts.source.wal_level = "minimal".to_owned();
        assert!(!judge(&facts).ok);
        facts.choices.method = Method::Dump;
        assert!(judge(&facts).ok);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listing(["a".to_owned(), "b".to_owned()]), "a, b");
        assert!(listing((0..25).map(|n| n.to_string())).ends_with("19 and 5 more"));
    }
}
