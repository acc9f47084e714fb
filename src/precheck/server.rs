//! Checks of the two clusters themselves.

use crate::pg::{Identifier, ServerVersion};
use crate::precheck::facts::{Facts, ServerFacts};
use crate::precheck::hint::Knob;
use crate::precheck::options::{Method, VersionRule};
use crate::precheck::table::Finding;

/// Fewer connections than this for each database cannot hold a keeper, a stream, a copy and control (P03).
const CONNECTIONS_MIN: u32 = 4;
/// With fewer than this beyond them the copy is slower than it need be.
const CONNECTIONS_SPARE: u32 = 6;

/// P31: host names prove nothing, two names may lead to one server.
pub(super) fn same_database(facts: &Facts) -> Vec<Finding> {
    let (source, target) = (&facts.source.server, &facts.target.server);
    if source.database != target.database {
        return Vec::new();
    }
    match (source.system_identifier, target.system_identifier) {
        (Some(here), Some(there)) if here == there => vec![
            Finding::block(format!(
                "Source and target are both database {} of cluster {here}: it would be copied onto itself.",
                source.database
            ))
            .fix("Name another server, or another database of this one, with --target"),
        ],
        (Some(_), Some(_)) => Vec::new(),
        (None, _) | (_, None) => vec![Finding::unknown(format!(
            "A server keeps its system identifier to itself, so it is not sure that the two databases {} are \
             not one.",
            source.database
        ))],
    }
}

pub(super) fn source_version(facts: &Facts) -> Vec<Finding> {
    let version = facts.source.server.may.version;
    if version >= ServerVersion::OLDEST_SOURCE {
        return Vec::new();
    }
    vec![
        Finding::block(format!("The source is PostgreSQL {version}; logical replication begins with 10."))
            .fix("Upgrade the source to PostgreSQL 10 or newer, or move it by pg_dump"),
    ]
}

/// P79.
pub(super) fn target_version(facts: &Facts) -> Vec<Finding> {
    let (source, target) = (facts.source.server.may.version, facts.target.server.may.version);
    if target.major() >= source.major() {
        return Vec::new();
    }
    let message = format!(
        "The target is PostgreSQL {target}, older than the source's {source}: definitions of a newer server may not \
         load into an older one."
    );
    vec![match facts.choices.checks.version {
        VersionRule::Enforced => Finding::block(message).fix(format!(
            "Use a target of PostgreSQL {} or newer, or run with --skip-db-version-check",
            source.major()
        )),
        VersionRule::Waived => Finding::warn(message),
    }]
}

/// P24.
pub(super) fn source_recovery(facts: &Facts) -> Vec<Finding> {
    if !facts.source.server.may.in_recovery {
        return Vec::new();
    }
    let primary =
        "Name the primary with --source (target_session_attrs=read-write finds it among several hosts)";
    vec![match facts.choices.method {
        Method::Replication => {
            Finding::block("The source is a standby: a publication can only be made on its primary.").fix(primary)
        }
        Method::Dump => Finding::warn(
            "The source is a standby: it cancels a copy that stands in the way of what it must replay, and its \
             unlogged tables cannot be read.",
        )
        .fix("ALTER SYSTEM SET hot_standby_feedback = on; and a longer max_standby_streaming_delay, on the standby"),
    }]
}

pub(super) fn target_recovery(facts: &Facts) -> Vec<Finding> {
    if !facts.target.server.may.in_recovery {
        return Vec::new();
    }
    vec![
        Finding::block("The target is a standby and takes no writes.").fix(
            "Name the primary with --target (target_session_attrs=read-write finds it among several hosts)",
        ),
    ]
}

/// P63. All text travels as UTF8; SQL_ASCII names no encoding, so nothing can convert it.
pub(super) fn encoding(facts: &Facts) -> Vec<Finding> {
    let (source, target) = (&*facts.source.server.encoding, &*facts.target.server.encoding);
    let create = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING '{source}' LC_COLLATE 'C' LC_CTYPE 'C';",
        Identifier::new(&facts.target.server.database)
    );
    match (source, target) {
        (same, other) if same == other => Vec::new(),
        ("SQL_ASCII", _) => vec![
            Finding::block(format!(
                "The source's encoding is SQL_ASCII, which may hold any bytes; the first that are not {target} \
                 would stop the copy."
            ))
            .fix(create),
        ],
        ("MULE_INTERNAL", _) | (_, "MULE_INTERNAL") => vec![
            Finding::block(format!("There is no conversion from {source} to {target} by way of UTF8."))
                .fix(create),
        ],
        (_, "SQL_ASCII") => vec![
            Finding::warn(format!(
                "The target's encoding is SQL_ASCII: it will hold {source} text as bytes that it does not check."
            ))
            .fix(create),
        ],
        (_, "UTF8") => Vec::new(),
        _ => vec![
            Finding::warn(format!(
                "The source is {source}, the target {target}: a character that {target} lacks would stop the copy."
            ))
            .fix(create),
        ],
    }
}

pub(super) fn source_connections(facts: &Facts) -> Vec<Finding> {
    connections("source", &facts.source.server, facts.choices.others.databases)
}

pub(super) fn target_connections(facts: &Facts) -> Vec<Finding> {
    connections("target", &facts.target.server, facts.choices.others.databases)
}

/// P03.
fn connections(end: &str, server: &ServerFacts, others: u32) -> Vec<Finding> {
    let left = server.may.connections;
    let least = CONNECTIONS_MIN.saturating_mul(others.saturating_add(1));
    let ample = least.saturating_add(CONNECTIONS_SPARE);
    let message =
        format!("The {end} has {} of {} connections left for role {}", left.free, left.max, server.may.role);
    let raised = left.max.saturating_add(ample).to_string();
    let fix = format!(
        "Close idle sessions, raise the CONNECTION LIMIT of the role or the database, or: {}",
        server.provider.hint(Knob::AtStart, &[("name", "max_connections"), ("value", &raised)])
    );
    if left.free < least {
        return vec![Finding::block(format!("{message}; at least {least} are needed.")).fix(fix)];
    }
    if left.free < ample {
        return vec![Finding::warn(format!("{message}: fewer tables will be copied side by side.")).fix(fix)];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::SystemIdentifier;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    #[test]
    fn a_database_is_not_copied_onto_itself() {
        let mut facts = facts();
        facts.target.server.system_identifier = facts.source.server.system_identifier;
        assert_eq!(verdicts(same_database(&facts)), [Verdict::Block]);
        facts.target.server.database = "other".to_owned();
        assert_eq!(same_database(&facts), []);
    }

    #[test]
    fn an_untold_identity_is_unknown() {
        let mut facts = facts();
        facts.target.server.system_identifier = None;
        assert_eq!(verdicts(same_database(&facts)), [Verdict::Unknown]);
        facts.target.server.system_identifier = Some(SystemIdentifier::new(99));
        assert_eq!(same_database(&facts), []);
    }

    #[test]
    fn versions_only_go_up() {
        let mut facts = facts();
        facts.source.server.may.version = ServerVersion::new(90_624);
        assert_eq!(verdicts(source_version(&facts)), [Verdict::Block]);
        facts.source.server.may.version = ServerVersion::new(160_001);
        assert_eq!(source_version(&facts), []);
        assert_eq!(verdicts(target_version(&facts)), [Verdict::Block]);
        facts.choices.checks.version = VersionRule::Waived;
        assert_eq!(verdicts(target_version(&facts)), [Verdict::Warn]);
        facts.target.server.may.version = ServerVersion::new(160_000);
        assert_eq!(target_version(&facts), []);
    }

    #[test]
    fn standbys_block_on_either_end() {
        let mut facts = facts();
        assert_eq!((source_recovery(&facts), target_recovery(&facts)), (vec![], vec![]));
        facts.source.server.may.in_recovery = true;
        facts.target.server.may.in_recovery = true;
        assert_eq!(verdicts(source_recovery(&facts)), [Verdict::Block]);
        assert_eq!(verdicts(target_recovery(&facts)), [Verdict::Block]);
    }

    #[test]
    fn encodings_are_equal_or_convertible() {
        let verdict = |source: &str, target: &str| {
            let mut facts = facts();
            facts.source.server.encoding = source.to_owned();
            facts.target.server.encoding = target.to_owned();
            verdicts(encoding(&facts))
        };
        assert_eq!(verdict("LATIN1", "UTF8"), []);
        assert_eq!(verdict("SQL_ASCII", "SQL_ASCII"), []);
        assert_eq!(verdict("SQL_ASCII", "UTF8"), [Verdict::Block]);
        assert_eq!(verdict("MULE_INTERNAL", "UTF8"), [Verdict::Block]);
        assert_eq!(verdict("UTF8", "SQL_ASCII"), [Verdict::Warn]);
        assert_eq!(verdict("UTF8", "LATIN1"), [Verdict::Warn]);
    }

    #[test]
    fn few_connections_warn_and_fewer_block() {
        let mut facts = facts();
        for (free, expected) in [(3, vec![Verdict::Block]), (4, vec![Verdict::Warn]), (10, vec![])] {
            facts.source.server.may.connections.free = free;
            facts.target.server.may.connections.free = free;
            assert_eq!(verdicts(source_connections(&facts)), expected);
            assert_eq!(verdicts(target_connections(&facts)), expected);
        }
        facts.choices.others.databases = 2;
        assert_eq!(verdicts(source_connections(&facts)), [Verdict::Block], "three databases want twelve");
    }
}
