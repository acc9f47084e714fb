//! Checks of whether the target can take what comes.

use crate::catalog::ReplicaRole;
use crate::pg::Identifier;
use crate::precheck::facts::Facts;
use crate::precheck::options::{Globals, Resuming};
use crate::precheck::report::Verdict;
use crate::precheck::server;
use crate::precheck::table::{Finding, listing};

/// Extensions that exist only at one provider; elsewhere they are neither to be had nor missed (P78).
const PROVIDER_EXTENSIONS: [&str; 12] = [
    "aiven_extras",
    "apg_plan_mgmt",
    "aws_commons",
    "aws_lambda",
    "aws_s3",
    "azure",
    "azure_ai",
    "google_ml_integration",
    "neon",
    "pg_failover_slots",
    "rds_tools",
    "supabase_vault",
];

/// P81: whatever is there would be mixed with what comes.
pub(super) fn empty(facts: &Facts) -> Vec<Finding> {
    let target = &facts.target;
    // Where the target is the source, or may be, "drop it" would be the worst of advice (P31).
    let same = server::same_database(facts);
    let is_source = same.iter().any(|finding| finding.verdict == Verdict::Block);
    if target.relations == 0 || facts.choices.resuming == Resuming::Yes || is_source {
        return Vec::new();
    }
    let examples = target.relation_examples.iter().map(|name| name.plain()).collect::<Vec<_>>().join(", ");
    let database = Identifier::new(&target.server.database);
    let holds = match target.relations {
        1 => format!("a relation, {examples}"),
        several => format!("{several} relations, such as {examples}"),
    };
    let mut fix = "Name an empty database with --target".to_owned();
    if same.is_empty() {
        fix += &format!(
            "; or, if nobody needs what is in this one, DROP DATABASE {database}; CREATE DATABASE {database} \
             TEMPLATE template0;"
        );
    }
    vec![Finding::block(format!("The target database {database} is not empty: it holds {holds}.")).fix(fix)]
}

pub(super) fn may_create(facts: &Facts) -> Vec<Finding> {
    let server = &facts.target.server;
    if server.may.may_create_in_database {
        return Vec::new();
    }
    let (role, database) = (Identifier::new(&server.may.role), Identifier::new(&server.database));
    vec![
        Finding::block(format!(
            "Role {} may not create schemas in the target database {database}.",
            server.may.role
        ))
        .fix(format!("GRANT CREATE ON DATABASE {database} TO {role};")),
    ]
}

/// P48.
pub(super) fn replica_role(facts: &Facts) -> Vec<Finding> {
    let server = &facts.target.server;
    match server.may.replica_role {
        ReplicaRole::Settable | ReplicaRole::ThroughAivenExtras => Vec::new(),
        ReplicaRole::Denied => vec![
            Finding::warn(format!(
                "Role {} may not set session_replication_role on the target: triggers and foreign keys are created \
                 only at cutover.",
                server.may.role
            ))
            .fix(match server.may.version.major() {
                15.. => format!(
                    "GRANT SET ON PARAMETER session_replication_role TO {};",
                    Identifier::new(&server.may.role)
                ),
                _ => format!("ALTER ROLE {} SUPERUSER; (where the service allows it)", Identifier::new(&server.may.role)),
            }),
        ],
    }
}

/// P78.
pub(super) fn extensions(facts: &Facts) -> Vec<Finding> {
    let judge = |(name, version): &(String, String)| {
        let leave_out = format!("--exclude-extension {name}");
        match facts.target.extensions.get(name) {
            None if PROVIDER_EXTENSIONS.contains(&name.as_str()) => Some(
                Finding::warn(format!("Extension {name} belongs to the source's provider; the target has none."))
                    .fix(leave_out),
            ),
            None => Some(
                Finding::block(format!("Extension {name} {version} is not available on the target.")).fix(format!(
                    "Install the package that holds {name} on the target (on a service: allow it in its settings), \
                     or {leave_out}"
                )),
            ),
            Some(there) if is_older(&there.default_version, version) && !there.versions.contains(version) => {
                Some(
                    Finding::warn(format!(
                        "Extension {name} is {version} on the source and only {} on the target.",
                        there.default_version
                    ))
                    .fix(format!("Install {name} {version} or newer on the target")),
                )
            }
            Some(_) => None,
        }
    };
    facts.source.extensions.iter().filter_map(judge).collect()
}

/// Compares the numbers in two extension versions; a version without numbers is older than none.
pub(super) fn is_older(one: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(one) < numbers(than)
}

/// P71.
pub(super) fn roles(facts: &Facts) -> Vec<Finding> {
    let owners = facts.source.catalog.tables.iter().map(|table| &*table.owner);
    let mut missing: Vec<&str> = facts
        .source
        .roles_in_use
        .iter()
        .map(String::as_str)
        .chain(owners)
        .filter(|role| !facts.target.roles.contains(*role) && !role.starts_with("pg_"))
        .collect();
    missing.sort();
    missing.dedup();
    let may_create = facts.target.server.may.may_create_roles;
    if missing.is_empty() || (facts.choices.roles == Globals::Carried && may_create) {
        return Vec::new();
    }
    let create: Vec<String> =
        missing.iter().map(|role| format!("CREATE ROLE {};", Identifier::new(role))).collect();
    let then = match may_create {
        true => "unless roles are carried over first, ownership and grants are lost",
        false => "our role may not create them there, so ownership and grants are lost",
    };
    vec![
        Finding::warn(format!(
            "Roles that own objects or hold grants on the source are missing on the target: {}; {then}.",
            listing(missing.iter().map(|role| (*role).to_owned()))
        ))
        .fix(create.join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::QualifiedName;
    use crate::precheck::facts::AvailableExtension;
    use crate::precheck::testing::{facts, verdicts};

    #[test]
    fn a_first_run_wants_an_empty_target() {
        let mut facts = facts();
        facts.target.relations = 2;
        facts.target.relation_examples = vec![QualifiedName::new("public", "stray")];
        let found = empty(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Block]);
        assert!(found[0].message.contains("public.stray"));
        facts.choices.resuming = Resuming::Yes;
        assert_eq!(empty(&facts), []);
    }

    #[test]
    fn nobody_is_told_to_drop_the_source() {
        let mut facts = facts();
        facts.target.relations = 2;
        facts.target.relation_examples = vec![QualifiedName::new("public", "orders")];
        facts.target.server.system_identifier = facts.source.server.system_identifier;
        assert_eq!(empty(&facts), []);
        // Where it is not sure that they are two it still blocks, with gentler advice.
        facts.target.server.system_identifier = None;
        let found = empty(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Block]);
        assert!(!found[0].fix.as_deref().unwrap().contains("DROP"));
    }

    #[test]
    fn rights_on_the_target() {
        let mut facts = facts();
        facts.target.server.may.may_create_in_database = false;
        assert_eq!(verdicts(may_create(&facts)), [Verdict::Block]);
        facts.target.server.may.replica_role = ReplicaRole::Denied;
        assert_eq!(verdicts(replica_role(&facts)), [Verdict::Warn]);
        facts.target.server.may.replica_role = ReplicaRole::ThroughAivenExtras;
        assert_eq!(replica_role(&facts), []);
    }

    #[test]
    fn extensions_must_be_to_be_had() {
        let mut facts = facts();
        facts.source.extensions = vec![("postgis".to_owned(), "3.10.1".to_owned())];
        assert_eq!(verdicts(extensions(&facts)), [Verdict::Block]);
        let offer = |version: &str| AvailableExtension {
            default_version: version.to_owned(),
            ..AvailableExtension::default()
        };
        facts.target.extensions.insert("postgis".to_owned(), offer("3.9"));
        assert_eq!(verdicts(extensions(&facts)), [Verdict::Warn]);
        facts.target.extensions.insert("postgis".to_owned(), offer("3.11"));
        assert_eq!(extensions(&facts), []);
        facts.source.extensions = vec![("rds_tools".to_owned(), "1.0".to_owned())];
        assert_eq!(verdicts(extensions(&facts)), [Verdict::Warn]);
    }

    #[test]
    fn missing_roles_are_listed_with_their_commands() {
        let mut facts = facts();
        facts.source.roles_in_use = vec!["Reader".to_owned(), "app".to_owned()];
        let found = roles(&facts);
        assert_eq!(verdicts(found.clone()), [Verdict::Warn]);
        assert_eq!(found[0].fix.as_deref(), Some("CREATE ROLE \"Reader\";"));
        facts.target.roles.insert("Reader".to_owned());
        assert_eq!(roles(&facts), []);
    }

    #[test]
    fn roles_that_the_run_makes_are_not_missed() {
        let mut facts = facts();
        facts.source.roles_in_use = vec!["Reader".to_owned()];
        facts.choices.roles = Globals::Carried;
        assert_eq!(roles(&facts), []);
        facts.target.server.may.may_create_roles = false;
        assert!(roles(&facts)[0].message.contains("may not create them"));
    }
}
