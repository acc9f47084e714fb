//! Checks of what is set for roles and databases, and of where things lie: what would leak in, or be lost.
//!
//! Hazard: a setting's value may be an application's secret. Only names are told.

use crate::error::Side;
use crate::pg::Identifier;
use crate::precheck::facts::{Choices, Facts, ServerFacts};
use crate::precheck::options::Globals;
use crate::precheck::surroundings::StoredSetting;
use crate::precheck::table::{Finding, listing};

/// What ends sessions or statements that take long (P90).
const TIMEOUTS: [&str; 5] = [
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "transaction_timeout",
];

/// P90: our own sessions pin these; whatever stands between may not pass the pins on.
pub(super) fn timeouts(facts: &Facts) -> Vec<Finding> {
    let of = |side: Side, server: &ServerFacts| {
        let limits = |setting: &&StoredSetting| {
            let never = setting.value.reveal().trim_start_matches('0').is_empty();
            setting.is_ours && !never && TIMEOUTS.contains(&setting.name.as_str())
        };
        let names: Vec<String> =
            server.surroundings.stored.iter().filter(limits).map(|setting| setting.name.clone()).collect();
        if names.is_empty() {
            return None;
        }
        let role = Identifier::new(&server.may.role);
        let resets: Vec<String> =
            names.iter().map(|name| format!("ALTER ROLE {role} SET {name} = 0;")).collect();
        Some(
            Finding::warn(format!(
                "On the {side} our role or database comes with {}. Our sessions override it, except where a pooler \
                 drops what they ask for, and a long COPY or index build would be cut off.",
                listing(names)
            ))
            .fix(resets.join(" ")),
        )
    };
    let both = [of(Side::Source, &facts.source.server), of(Side::Target, &facts.target.server)];
    both.into_iter().flatten().collect()
}

/// P73: these are part of no dump of a database.
pub(super) fn of_the_database(facts: &Facts) -> Vec<Finding> {
    let target = &facts.target;
    let there = &target.server.surroundings.stored;
    let is_there = |wanted: &StoredSetting| {
        let same = |one: &StoredSetting| {
            one.is_of_database
                && one.role == wanted.role
                && one.name == wanted.name
                && one.value == wanted.value
        };
        there.iter().any(same)
    };
    let of_database =
        || facts.source.server.surroundings.stored.iter().filter(|setting| setting.is_of_database);
    let mut found = Vec::new();
    let unknown: Vec<String> = of_database().filter(|one| !is_known(facts, &one.name)).map(told).collect();
    if !unknown.is_empty() {
        found.push(Finding::warn(format!(
            "The target does not know settings that the source's database is given: {}.",
            listing(unknown)
        )));
    }
    // The run sets them itself, but not for a role that is not there.
    let is_carried = |one: &StoredSetting| {
        let Choices { roles, database_settings, .. } = &facts.choices;
        let has_role = one.role.as_ref().is_none_or(|role| target.roles.contains(role));
        *database_settings == Globals::Carried && (has_role || *roles == Globals::Carried)
    };
    let missing: Vec<String> = of_database()
        .filter(|one| is_known(facts, &one.name) && !is_there(one) && !is_carried(one))
        .map(told)
        .collect();
    if !missing.is_empty() {
        let database = Identifier::new(&target.server.database);
        found.push(
            Finding::warn(format!(
                "Settings of the source's database are not set on the target's: {}.",
                listing(missing)
            ))
            .fix(format!(
                "ALTER DATABASE {database} SET … = …; for each, as \\drds in psql lists them on the source"
            )),
        );
    }
    found
}

fn told(setting: &StoredSetting) -> String {
    match &setting.role {
        Some(role) => format!("{} for role {role}", setting.name),
        None => setting.name.clone(),
    }
}

/// Settings with a dot are anyone's. Those of libraries and files are shown to few, and known everywhere.
fn is_known(facts: &Facts, name: &str) -> bool {
    let parameters = &facts.target.parameters;
    parameters.contains(name) || name.contains('.') || name.ends_with("_libraries") || name.ends_with("_path")
}

/// P74.
pub(super) fn tablespaces(facts: &Facts) -> Vec<Finding> {
    let elsewhere = &facts.source.objects.elsewhere;
    if elsewhere.is_empty() {
        return Vec::new();
    }
    let each = elsewhere.iter().map(|(relation, tablespace)| format!("{} ({tablespace})", relation.plain()));
    vec![Finding::warn(format!(
        "Everything goes to the target's default tablespace; on the source these lie elsewhere: {}.",
        listing(each)
    ))]
}

/// P74.
pub(super) fn security_labels(facts: &Facts) -> Vec<Finding> {
    let providers = &facts.source.objects.label_providers;
    if providers.is_empty() {
        return Vec::new();
    }
    vec![Finding::warn(format!(
        "Security labels arrive only where the target has loaded their provider: {}.",
        listing(providers.iter().cloned())
    ))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{QualifiedName, Secret};
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    fn setting(name: &str, value: &str) -> StoredSetting {
        StoredSetting {
            role: None,
            is_of_database: true,
            is_ours: true,
            name: name.to_owned(),
            value: Secret::new(value),
        }
    }

    #[test]
    fn timeouts_of_ours_are_said_and_zero_is_none() {
        let mut facts = facts();
        facts.target.server.surroundings.stored = vec![
            setting("statement_timeout", "0"),
            setting("work_mem", "1GB"),
            StoredSetting { is_ours: false, ..setting("lock_timeout", "5s") },
        ];
        assert_eq!(timeouts(&facts), []);
        facts.target.server.surroundings.stored.push(setting("transaction_timeout", "30s"));
        let found = timeouts(&facts);
        assert!(
            found[0].message.contains("On the target") && found[0].message.contains("transaction_timeout")
        );
        assert_eq!(verdicts(found), [Verdict::Warn]);
    }

    #[test]
    fn settings_of_the_database_are_looked_for_on_the_target_without_their_values() {
        let mut facts = facts();
        facts.source.server.surroundings.stored = vec![
            setting("app.jwt_key", "hunter2"),
            setting("vacuum_cleanup_index_scale_factor", "1"),
            StoredSetting { is_of_database: false, ..setting("work_mem", "1GB") },
        ];
        let found = of_the_database(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Warn, Verdict::Warn]);
        assert!(found[0].message.contains("does not know") && found[0].message.contains("vacuum_cleanup"));
        assert!(found[1].message.contains("app.jwt_key"));
        assert!(!format!("{found:?} {facts:?}").contains("hunter2"));
        facts.source.server.surroundings.stored.remove(1);
        facts.target.server.surroundings.stored = vec![setting("app.jwt_key", "hunter2")];
        assert_eq!(of_the_database(&facts), []);
    }

    #[test]
    fn settings_that_the_run_carries_are_not_missed() {
        let mut facts = facts();
        let of_role =
            |role: &str| StoredSetting { role: Some(role.to_owned()), ..setting("work_mem", "1GB") };
        facts.source.server.surroundings.stored =
            vec![setting("work_mem", "2GB"), of_role("app"), of_role("new")];
        facts.choices.database_settings = Globals::Carried;
        let found = of_the_database(&facts);
        assert!(found[0].message.ends_with("target's: work_mem for role new."), "{found:?}");
        facts.choices.roles = Globals::Carried;
        assert_eq!(of_the_database(&facts), []);
    }

    #[test]
    fn places_and_labels_are_said() {
        let mut facts = facts();
        assert_eq!((tablespaces(&facts), security_labels(&facts)), (vec![], vec![]));
        facts.source.objects.elsewhere = vec![(QualifiedName::new("public", "t"), "fast".to_owned())];
        facts.source.objects.label_providers = vec!["selinux".to_owned()];
        assert!(tablespaces(&facts)[0].message.contains("public.t (fast)"));
        assert!(security_labels(&facts)[0].message.contains("selinux"));
    }
}
