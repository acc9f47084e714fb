//! Checks of what becomes of roles.

use crate::precheck::facts::Facts;
use crate::precheck::options::Globals;
use crate::precheck::table::{Finding, listing};

/// P69.
pub(super) fn attributes(facts: &Facts) -> Vec<Finding> {
    let may = &facts.target.server.may;
    // A role that is there keeps what it has.
    let exalted = facts.source.exalted_roles.iter().filter(|(role, _)| !facts.target.roles.contains(role));
    let each: Vec<String> =
        exalted.map(|(role, attributes)| format!("{role} ({})", attributes.join(", "))).collect();
    if may.is_superuser || each.is_empty() {
        return Vec::new();
    }
    vec![Finding::warn(format!(
        "Role {} is no superuser on the target and cannot give these attributes there: {}.",
        may.role,
        listing(each)
    ))]
}

/// P68.
pub(super) fn passwords(facts: &Facts) -> Vec<Finding> {
    let source = &facts.source;
    if source.reads_passwords || source.login_roles == 0 {
        return Vec::new();
    }
    let (then, fix) = match facts.choices.roles {
        Globals::Left => ("need new passwords on the target", "else set each password on the target"),
        Globals::Carried => (
            "get placeholders if they are made on the target",
            "else see to the placeholders with --show-passwords or --role-passwords",
        ),
    };
    vec![
        Finding::warn(format!(
            "Role {} may not read the source's password verifiers: {} roles that may log in {then}.",
            source.server.may.role, source.login_roles
        ))
        .fix(format!("Use a superuser of the source, where there is one; {fix}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    #[test]
    fn attributes_are_lost_where_we_may_not_give_them() {
        let mut facts = facts();
        facts.source.exalted_roles = vec![("boss".to_owned(), vec!["SUPERUSER".to_owned()])];
        assert!(attributes(&facts)[0].message.contains("boss (SUPERUSER)"));
        facts.target.server.may.is_superuser = true;
        assert_eq!(attributes(&facts), []);
        facts.target.server.may.is_superuser = false;
        facts.target.roles.insert("boss".to_owned());
        assert_eq!(attributes(&facts), []);
    }

    #[test]
    fn passwords_that_cannot_be_read_are_missed_by_those_who_log_in() {
        let mut facts = facts();
        facts.source.reads_passwords = false;
        facts.source.login_roles = 0;
        assert_eq!(passwords(&facts), []);
        facts.source.login_roles = 2;
        assert_eq!(verdicts(passwords(&facts)), [Verdict::Warn]);
        facts.choices.roles = Globals::Carried;
        let found = passwords(&facts);
        assert!(found[0].message.contains("2 roles that may log in get placeholders"), "{found:?}");
        facts.source.reads_passwords = true;
        assert_eq!(passwords(&facts), []);
    }
}
