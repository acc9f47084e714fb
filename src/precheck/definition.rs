//! What was tried with the definitions: the tools that carry them, and a restore for trial (P79, P80).

use crate::precheck::facts::{Facts, Trial};
use crate::precheck::table::Finding;

/// P79.
pub(super) fn tools(facts: &Facts) -> Vec<Finding> {
    refused(
        &facts.tools,
        "The definitions cannot be carried from this machine",
        "Name pg_dump's directory with --pgbin",
    )
}

/// P80: the only complete check of whether a newer server takes the definitions of an older one.
pub(super) fn trial_restore(facts: &Facts) -> Vec<Finding> {
    refused(
        &facts.trial_restore,
        "The definitions do not restore on the target",
        "Mend or drop on the source what is named",
    )
}

fn refused(trial: &Trial, what: &str, otherwise: &str) -> Vec<Finding> {
    match trial {
        Trial::Allowed | Trial::NotTried => Vec::new(),
        Trial::Refused { message, advice } => vec![
            Finding::block(format!("{what}: {message}"))
                .fix(advice.clone().unwrap_or_else(|| otherwise.to_owned())),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    #[test]
    fn a_refusal_blocks_with_its_own_advice() {
        let mut facts = facts();
        assert_eq!((tools(&facts), trial_restore(&facts)), (vec![], vec![]));
        let refused = |advice: Option<&str>| Trial::Refused {
            message: "no".to_owned(),
            advice: advice.map(str::to_owned),
        };
        facts.tools = refused(Some("Install it."));
        assert_eq!(tools(&facts)[0].fix.as_deref(), Some("Install it."));
        facts.trial_restore = refused(None);
        assert_eq!(verdicts(trial_restore(&facts)), [Verdict::Block]);
    }
}
