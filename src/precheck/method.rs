//! Which of the two methods the facts allow. Pure.
//!
//! Hazard: an operator who believes that changes are streamed, while a dump runs, cuts over to a target that
//! lacks everything written since (P98). So the check that decided is part of the decision, and stands first
//! in the report.

use crate::precheck::facts::Facts;
use crate::precheck::options::Method;
use crate::precheck::report::{Outcome, Report, Verdict};
use crate::precheck::table::judge;

/// The method that the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MethodChoice {
    /// Replication where its checks pass, else the dump; but replication or nothing where another option has
    /// no meaning without it.
    #[default]
    Auto,
    /// Replication where its checks pass, else the dump, whatever the other options.
    Fallback,
    /// Replication, or nothing.
    Replication,
    /// The dump, also where replication would do.
    Dump,
}

/// The method taken, and what the checks say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The method.
    pub method: Method,
    /// What speaks against replication, where it was not the operator who decided for the dump.
    pub against: Vec<Outcome>,
    /// The checks of that method. What speaks against replication stands there as warnings, first of all.
    pub report: Report,
}

/// The id under which a report tells that the method is not the one that was hoped for.
pub const METHOD: &str = "method";

/// Chooses. What blocks under both methods blocks.
#[must_use]
pub fn decide(facts: &Facts, choice: MethodChoice) -> Decision {
    let under = |method| {
        let mut facts = facts.clone();
        facts.choices.method = method;
        judge(&facts)
    };
    let as_chosen = |method| Decision { method, against: Vec::new(), report: under(method) };
    match choice {
        MethodChoice::Replication => as_chosen(Method::Replication),
        MethodChoice::Dump => as_chosen(Method::Dump),
        MethodChoice::Auto | MethodChoice::Fallback => {
            let (replication, dump) = (under(Method::Replication), under(Method::Dump));
            let against = against(&replication, &dump);
            match against.is_empty() {
                true => Decision { method: Method::Replication, against, report: replication },
                false => {
                    let report = fallen_back(dump, &against);
                    Decision { method: Method::Dump, against, report }
                }
            }
        }
    }
}

/// What blocks replication and would not block the dump.
fn against(replication: &Report, dump: &Report) -> Vec<Outcome> {
    let blocks_both = |id| dump.with(Verdict::Block).any(|outcome| outcome.id == id);
    replication.with(Verdict::Block).filter(|outcome| !blocks_both(outcome.id)).cloned().collect()
}

fn fallen_back(dump: Report, against: &[Outcome]) -> Report {
    let ids: Vec<&str> = against.iter().map(|outcome| outcome.id).collect();
    let told = against.iter().take(1).map(|first| Outcome {
        id: METHOD,
        verdict: Verdict::Warn,
        message: format!(
            "A plain dump moves this database, not replication, because of {}: the target will hold the source as it \
             was at one moment, and nothing that is written after it.",
            listed(against)
        ),
        fix: Some("Mend what speaks against replication; or stop the writers, and take the dump.".to_owned()),
        ..first.clone()
    });
    let warned = against.iter().map(|outcome| Outcome { verdict: Verdict::Warn, ..outcome.clone() });
    // A check that judges both methods has spoken above already.
    let rest = dump
        .checks
        .into_iter()
        .filter(|outcome| !ids.contains(&outcome.id) || outcome.verdict != Verdict::Pass);
    Report::new(told.chain(warned).chain(rest).collect())
}

/// `wal-level, publication-right`: each check once.
fn listed(against: &[Outcome]) -> String {
    let mut ids: Vec<&str> = against.iter().map(|outcome| outcome.id).collect();
    ids.dedup();
    ids.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::testing::facts;

    fn taken(facts: &Facts, choice: MethodChoice) -> (Method, Option<&'static str>, bool) {
        let decision = decide(facts, choice);
        (decision.method, decision.against.first().map(|outcome| outcome.id), decision.report.ok)
    }

    #[test]
    fn a_sound_source_replicates_unless_told_otherwise() {
        assert_eq!(taken(&facts(), MethodChoice::Auto), (Method::Replication, None, true));
        assert_eq!(taken(&facts(), MethodChoice::Replication), (Method::Replication, None, true));
        assert_eq!(taken(&facts(), MethodChoice::Dump), (Method::Dump, None, true));
    }

    #[test]
    fn what_blocks_replication_alone_decides_for_the_dump_and_says_so() {
        let mut facts = facts();
        facts.source.wal_level = "replica".to_owned();
        assert_eq!(taken(&facts, MethodChoice::Auto), (Method::Dump, Some("wal-level"), true));
        let report = decide(&facts, MethodChoice::Auto).report;
        assert_eq!((report.checks[0].id, report.checks[0].verdict), (METHOD, Verdict::Warn));
        assert!(report.checks[0].message.contains("wal-level"), "{report}");
        let told = report.checks.iter().find(|outcome| outcome.id == "wal-level").unwrap();
        assert!(told.verdict == Verdict::Warn && told.fix.is_some(), "{told:?}");
        assert_eq!(taken(&facts, MethodChoice::Replication), (Method::Replication, None, false));
    }

    #[test]
    fn what_blocks_both_blocks() {
        let mut facts = facts();
        facts.target.relations = 1;
        assert_eq!(taken(&facts, MethodChoice::Auto), (Method::Replication, None, false));
        facts.source.wal_level = "replica".to_owned();
        assert_eq!(taken(&facts, MethodChoice::Auto), (Method::Dump, Some("wal-level"), false));
    }

    #[test]
    fn a_standby_is_dumped() {
        let mut facts = facts();
        facts.source.server.may.in_recovery = true;
        let (method, by, ok) = taken(&facts, MethodChoice::Auto);
        assert_eq!((method, by, ok), (Method::Dump, Some("source-recovery"), true));
        let report = decide(&facts, MethodChoice::Auto).report;
        assert_eq!(
            report.checks.iter().filter(|outcome| outcome.id == "source-recovery").count(),
            2,
            "{report}"
        );
    }

    #[test]
    fn several_findings_of_one_check_are_one_reason() {
        let outcome = |id| Outcome {
            id,
            database: "shop".to_owned(),
            verdict: Verdict::Block,
            message: String::new(),
            fix: None,
        };
        assert_eq!(listed(&["a", "b", "b"].map(outcome)), "a, b");
    }
}
