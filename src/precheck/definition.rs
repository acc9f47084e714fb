//! What was tried with the definitions: the tools that carry them, and a restore for trial (P79, P80).

use crate::precheck::facts::{Facts, Trial, TrialRestored};
use crate::precheck::table::Finding;

/// P79.
pub(super) fn tools(facts: &Facts) -> Vec<Finding> {
    match &facts.tools {
        Trial::Allowed | Trial::NotTried => Vec::new(),
        Trial::Refused { message, advice } => vec![
            Finding::block(format!("The definitions cannot be carried from this machine: {message}"))
                .fix(advice.clone().unwrap_or_else(|| "Name pg_dump's directory with --pgbin".to_owned())),
        ],
    }
}

/// P80: the only complete check of whether a newer server takes the definitions of an older one.
pub(super) fn trial_restore(facts: &Facts) -> Vec<Finding> {
    match &facts.trial_restore {
        TrialRestored::NotAsked | TrialRestored::Restored => Vec::new(),
        TrialRestored::Failed { message, advice } => {
            let otherwise = || "Mend or drop on the source what is named".to_owned();
            vec![
                Finding::block(format!("The definitions do not restore on the target: {message}"))
                    .fix(advice.clone().unwrap_or_else(otherwise)),
            ]
        }
        TrialRestored::Impossible { message } => vec![
            Finding::unknown(format!("The definitions could not be tried on the target: {message}"))
                .fix("Give our role CREATEDB on the target, or run without --trial-restore"),
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
        let advice = Some("Install it.".to_owned());
        facts.tools = Trial::Refused { message: "no".to_owned(), advice: advice.clone() };
        assert_eq!(tools(&facts)[0].fix, advice);
        facts.trial_restore = TrialRestored::Failed { message: "no".to_owned(), advice: None };
        assert_eq!(verdicts(trial_restore(&facts)), [Verdict::Block]);
        facts.trial_restore = TrialRestored::Impossible { message: "no".to_owned() };
        assert_eq!(verdicts(trial_restore(&facts)), [Verdict::Unknown]);
    }
}
