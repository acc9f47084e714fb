//! The table of checks: every one has an id that never changes, a title that is true when it passes, and
//! a function from facts to findings.

use crate::precheck::facts::Facts;
use crate::precheck::options::Method;
use crate::precheck::report::{Outcome, Report, Verdict};
use crate::precheck::{content, cut, foreign_key, identity, server, stream, target};

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
    check("encoding", "the target can hold the source's text", Scope::Any, server::encoding),
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
    check("large-objects", "there are no large objects", Scope::Replication, content::large_objects),
    check("unlogged-tables", "every table is in the WAL", Scope::Replication, content::unlogged),
    check("foreign-tables", "there are no foreign tables", Scope::Any, content::foreign_tables),
    check("materialized-views", "no materialized view holds rows", Scope::Any, content::materialized_views),
    check("target-empty", "the target database is empty", Scope::Any, target::empty),
    check("target-rights", "our role may create schemas on the target", Scope::Any, target::may_create),
    check(
        "replica-role",
        "triggers can be kept quiet on the target",
        Scope::Replication,
        target::replica_role,
    ),
    check("extensions", "the target can create the source's extensions", Scope::Any, target::extensions),
    check("roles", "the target has the roles that own or may use objects", Scope::Any, target::roles),
];

/// Runs every check that matters on the facts.
#[must_use]
pub fn judge(facts: &Facts) -> Report {
    let database = &facts.source.server.database;
    let matters = |check: &&Check| check.scope == Scope::Any || facts.choices.method == Method::Replication;
    let outcomes = CHECKS.iter().filter(matters).flat_map(|check| {
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
        assert_eq!(report.checks.len(), CHECKS.len());
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
