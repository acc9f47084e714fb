//! Rights on a database: what to grant and revoke, decided without I/O.
//!
//! Hazard: who may connect is decided here, so a database that somebody has prepared on the target is never opened
//! further to PUBLIC, nor closed to anybody: there, only named roles get what they have on the source (P71).

use std::collections::BTreeSet;

use super::{DatabaseDefinition, DatabaseRight, RightsKind};
use crate::pg::Identifier;

/// What to do with the rights on a database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AccessPlan {
    /// What it is called in a message, and the statements.
    pub(super) steps: Vec<(String, String)>,
    pub(super) warnings: Vec<String>,
}

/// Plans what makes the target's rights the source's. `roles` are those of the target.
pub(super) fn plan_access(
    source: &DatabaseDefinition,
    target: &DatabaseDefinition,
    roles: &BTreeSet<String>,
) -> AccessPlan {
    let mut plan = AccessPlan::default();
    let wanted: Vec<DatabaseRight> =
        source.rights.iter().map(|right| mapped(right, source, target)).collect();
    let missing: Vec<&DatabaseRight> = wanted.iter().filter(|right| !has(&target.rights, right)).collect();
    let surplus: Vec<&DatabaseRight> =
        target.rights.iter().filter(|right| !has_privilege(&wanted, right)).collect();
    let database = Identifier::new(&target.name);
    let is_ours = target.rights_kind == RightsKind::Default;
    for right in surplus {
        let (privilege, grantee) = (&right.privilege, shown(right));
        if is_ours {
            plan.steps.push((
                format!("REVOKE {privilege} FROM {grantee}"),
                format!("REVOKE {privilege} ON DATABASE {database} FROM {}", quoted(right)),
            ));
        } else {
            plan.warnings.push(format!("{grantee} has {privilege} on the database on the target only"));
        }
    }
    // What the owner grants comes first: others can only grant on.
    let (own, on): (Vec<_>, Vec<_>) = missing.into_iter().partition(|right| right.grantor == target.owner);
    for right in own.into_iter().chain(on) {
        let (privilege, grantee) = (&right.privilege, shown(right));
        if right.grantee.as_ref().is_some_and(|name| !roles.contains(name)) {
            plan.warnings.push(format!("{grantee}, which has {privilege} on it, is not on the target"));
            continue;
        }
        if !is_ours && right.grantee.is_none() {
            plan.warnings.push(format!("PUBLIC has {privilege} on the database on the source only"));
            continue;
        }
        let option = if right.grantable { " WITH GRANT OPTION" } else { "" };
        let grant = format!("GRANT {privilege} ON DATABASE {database} TO {}{option}", quoted(right));
        let sql = match right.grantor == target.owner || !roles.contains(&right.grantor) {
            true => grant,
            false => format!("SET LOCAL ROLE {}; {grant}; RESET ROLE", Identifier::new(&right.grantor)),
        };
        plan.steps.push((format!("GRANT {privilege} TO {grantee}"), sql));
    }
    plan
}

/// A right of the source's in the target's names: the owner is whoever owns it there, the bootstrap superuser too.
fn mapped(right: &DatabaseRight, source: &DatabaseDefinition, target: &DatabaseDefinition) -> DatabaseRight {
    let map = |name: &str| {
        if name == source.owner {
            target.owner.clone()
        } else if name == source.bootstrap {
            target.bootstrap.clone()
        } else {
            name.to_owned()
        }
    };
    DatabaseRight {
        grantor: map(&right.grantor),
        grantee: right.grantee.as_deref().map(map),
        ..right.clone()
    }
}

/// Whoever granted it.
fn has(rights: &[DatabaseRight], wanted: &DatabaseRight) -> bool {
    rights.iter().any(|right| {
        right.grantee == wanted.grantee
            && right.privilege == wanted.privilege
            && (right.grantable || !wanted.grantable)
    })
}

fn has_privilege(rights: &[DatabaseRight], wanted: &DatabaseRight) -> bool {
    rights.iter().any(|right| right.grantee == wanted.grantee && right.privilege == wanted.privilege)
}

fn shown(right: &DatabaseRight) -> &str {
    right.grantee.as_deref().unwrap_or("PUBLIC")
}

fn quoted(right: &DatabaseRight) -> String {
    right.grantee.as_ref().map_or_else(|| "PUBLIC".to_owned(), |name| Identifier::new(name).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::testing::definition;
    use super::*;

    fn right(grantor: &str, grantee: Option<&str>, privilege: &str) -> DatabaseRight {
        DatabaseRight {
            grantor: grantor.to_owned(),
            grantee: grantee.map(str::to_owned),
            privilege: privilege.to_owned(),
            grantable: false,
        }
    }

    /// As the server makes it.
    fn untouched(owner: &str) -> DatabaseDefinition {
        let rights = vec![
            right(owner, None, "TEMPORARY"),
            right(owner, None, "CONNECT"),
            right(owner, Some(owner), "CREATE"),
            right(owner, Some(owner), "CONNECT"),
            right(owner, Some(owner), "TEMPORARY"),
        ];
        DatabaseDefinition { owner: owner.to_owned(), rights, ..definition() }
    }

    fn statements(plan: &AccessPlan) -> Vec<&str> {
        plan.steps.iter().map(|(_, sql)| sql.as_str()).collect()
    }

    fn roles(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_granted_and_revoked_is_done_again() {
        let (mut source, target) = (untouched("app"), untouched("me"));
        source.rights_kind = RightsKind::Explicit;
        source.rights.retain(|right| right.grantee.is_some());
        source.rights.push(DatabaseRight { grantable: true, ..right("app", Some("b"), "CONNECT") });
        source.rights.insert(0, right("b", Some("c"), "CONNECT"));
        let plan = plan_access(&source, &target, &roles(&["me", "b", "c"]));
        assert_eq!(
            statements(&plan),
            [
                "REVOKE TEMPORARY ON DATABASE \"d\" FROM PUBLIC",
                "REVOKE CONNECT ON DATABASE \"d\" FROM PUBLIC",
                "GRANT CONNECT ON DATABASE \"d\" TO \"b\" WITH GRANT OPTION",
                "SET LOCAL ROLE \"b\"; GRANT CONNECT ON DATABASE \"d\" TO \"c\"; RESET ROLE",
            ]
        );
        assert_eq!(plan.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_role_that_is_not_there_is_named() {
        let (mut source, target) = (untouched("app"), untouched("app"));
        source.rights.push(right("app", Some("gone"), "CONNECT"));
        let plan = plan_access(&source, &target, &roles(&["app"]));
        assert_eq!(
            (plan.steps, plan.warnings),
            (vec![], vec!["gone, which has CONNECT on it, is not on the target".to_owned()])
        );
    }

    #[test]
    fn what_somebody_has_closed_stays_closed() {
        let (source, mut target) = (untouched("app"), untouched("app"));
        target.rights_kind = RightsKind::Explicit;
        target.rights.retain(|right| right.grantee.is_some());
        target.rights.push(right("app", Some("guest"), "CONNECT"));
        let plan = plan_access(&source, &target, &roles(&["app", "guest"]));
        assert_eq!((plan.steps.len(), plan.warnings.len()), (0, 3), "{:?}", plan.warnings);
    }
}
