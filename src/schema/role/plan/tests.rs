//! The plan, on clusters that are made up: a bootstrap superuser, `pg_monitor`, and what each claim adds.
//!
//! Hazard: the versions that differ most in memberships (16 and later) are rarely at hand; here they are.

use std::collections::BTreeSet;

use super::super::statement;
use super::*;
use crate::pg::ServerVersion;
use crate::schema::setting::Setting;

fn role(name: &str) -> Role {
    Role {
        name: name.to_owned(),
        attributes: BTreeSet::from([Attribute::Inherit]),
        connection_limit: -1,
        valid_until: None,
        password: Stored::None,
        comment: None,
        settings: Vec::new(),
        labels: Vec::new(),
    }
}

fn with(name: &str, attributes: &[Attribute]) -> Role {
    let mut role = role(name);
    role.attributes.extend(attributes);
    role
}

fn cluster(major: u32, bootstrap: &str, roles: Vec<Role>) -> ClusterRoles {
    let own = with(bootstrap, &[Attribute::Superuser, Attribute::Login]);
    let roles = roles.into_iter().chain([own, role("pg_monitor")]);
    ClusterRoles {
        version: ServerVersion::new(major * 10_000),
        bootstrap: bootstrap.to_owned(),
        user: bootstrap.to_owned(),
        user_kind: UserKind::Superuser,
        reserved: Vec::new(),
        password_encryption: "scram-sha-256".to_owned(),
        roles: roles.map(|role| (role.name.clone(), role)).collect(),
        memberships: Vec::new(),
        parameters: Vec::new(),
        settings_of_all: Vec::new(),
    }
}

fn member(role: &str, member: &str, grantor: &str) -> Membership {
    Membership {
        role: role.to_owned(),
        member: member.to_owned(),
        grantor: Some(grantor.to_owned()),
        admin: false,
        options: None,
    }
}

fn statements(plan: &Plan) -> Vec<String> {
    plan.grants.iter().map(statement::grant).collect()
}

fn planned<'a>(plan: &'a Plan, name: &str) -> &'a Planned {
    plan.roles.iter().find(|one| one.role.name == name).expect("every role of the source is planned")
}

#[test]
fn the_bootstrap_superuser_is_mapped_and_never_made() {
    let mut source = cluster(15, "postgres", vec![role("app")]);
    source.memberships = vec![member("app", "postgres", "postgres"), member("pg_monitor", "app", "postgres")];
    let plan = plan(&source, &cluster(15, "admin", vec![]), &[]);
    assert_eq!(planned(&plan, "postgres").action, Action::Skip);
    assert_eq!(planned(&plan, "app").action, Action::Create(Password::None));
    assert!(plan.roles.iter().all(|one| one.role.name != "pg_monitor"));
    assert_eq!(
        statements(&plan),
        [
            "GRANT \"app\" TO \"admin\" GRANTED BY \"admin\"",
            "GRANT \"pg_monitor\" TO \"app\" GRANTED BY \"admin\""
        ]
    );
}

#[test]
fn a_grantor_comes_after_his_own_grant() {
    let mut source = cluster(16, "postgres", vec![role("a"), role("b"), role("team")]);
    let options = Some(MembershipOptions { inherit: false, set: true });
    let mut admin = member("team", "a", "postgres");
    (admin.admin, admin.options) = (true, options);
    source.memberships = vec![Membership { options, ..member("team", "b", "a") }, admin];
    assert_eq!(
        statements(&plan(&source, &cluster(17, "postgres", vec![]), &[])),
        [
            "GRANT \"team\" TO \"a\" WITH ADMIN OPTION, INHERIT FALSE, SET TRUE GRANTED BY \"postgres\"",
            "GRANT \"team\" TO \"b\" WITH INHERIT FALSE, SET TRUE GRANTED BY \"a\"",
        ]
    );
}

#[test]
fn before_16_a_grantor_is_a_memory() {
    let mut source = cluster(13, "postgres", vec![role("a"), role("b"), role("team")]);
    source.memberships = vec![member("team", "b", "a")];
    source.memberships.push(Membership { grantor: None, ..member("team", "a", "") });
    assert_eq!(
        statements(&plan(&source, &cluster(16, "postgres", vec![]), &[])),
        ["GRANT \"team\" TO \"b\"", "GRANT \"team\" TO \"a\""]
    );
    assert_eq!(
        statements(&plan(&source, &cluster(15, "postgres", vec![]), &[])),
        ["GRANT \"team\" TO \"b\" GRANTED BY \"a\"", "GRANT \"team\" TO \"a\""]
    );
}

#[test]
fn an_ordinary_user_does_not_grant_himself_what_creation_gave_him() {
    let mut source = cluster(16, "rdsadmin", vec![role("app"), role("other"), role("me")]);
    let implicit = MembershipOptions { inherit: false, set: false };
    let full = MembershipOptions { inherit: true, set: true };
    let of = |role: &str, options| Membership {
        admin: true,
        options: Some(options),
        ..member(role, "me", "rdsadmin")
    };
    source.memberships = vec![of("app", implicit), of("other", full)];
    let mut target = cluster(16, "postgres", vec![role("me")]);
    (target.user, target.user_kind) = ("me".to_owned(), UserKind::Ordinary);
    let plan = plan(&source, &target, &[]);
    assert_eq!(statements(&plan), ["GRANT \"other\" TO \"me\" WITH INHERIT TRUE, SET TRUE"]);
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
}

#[test]
fn a_namesake_with_more_power_gets_no_members() {
    let mut source = cluster(15, "postgres", vec![role("admin"), role("clerk")]);
    source.memberships = vec![member("admin", "clerk", "postgres")];
    // Here the namesake is the target's own superuser.
    let plan = plan(&source, &cluster(15, "admin", vec![]), &[]);
    assert_eq!(plan.grants, []);
    assert_eq!(planned(&plan, "admin").action, Action::Keep);
    assert!(planned(&plan, "clerk").notes[0].contains("may do more on the target"));
}

#[test]
fn who_cannot_be_read_and_may_log_in_gets_a_placeholder() {
    let hidden = |name: &str, attributes: &[Attribute]| Role {
        password: Stored::Unreadable,
        ..with(name, attributes)
    };
    let roles =
        vec![hidden("app", &[Attribute::Login]), hidden("group", &[]), hidden("a\nb", &[Attribute::Login])];
    let plan = plan(&cluster(15, "postgres", roles), &cluster(15, "postgres", vec![]), &[]);
    assert_eq!(planned(&plan, "app").action, Action::Create(Password::Placeholder));
    assert_eq!(planned(&plan, "group").action, Action::Create(Password::None));
    assert_eq!(planned(&plan, "a\nb").action, Action::Create(Password::None));
}

#[test]
fn only_what_is_not_the_default_is_named() {
    let mut app = with("app", &[Attribute::Login, Attribute::Superuser]);
    (app.connection_limit, app.valid_until) = (3, Some("infinity".to_owned()));
    let all = statement::create(&app, &Attribute::ALL);
    assert_eq!(all, "CREATE ROLE \"app\" LOGIN SUPERUSER CONNECTION LIMIT 3 VALID UNTIL 'infinity'");
    let plain = statement::create(&app, &[Attribute::Login]);
    assert!(!plain.contains("SUPERUSER"), "{plain}");
    app.attributes.clear();
    assert!(statement::create(&app, &Attribute::ALL).starts_with("CREATE ROLE \"app\" NOINHERIT CONN"));
}

#[test]
fn what_holds_for_the_whole_server_is_told_and_not_done() {
    let mut source = cluster(15, "postgres", vec![]);
    let setting = Setting { name: "work_mem".to_owned(), value: "1MB".to_owned() };
    source.settings_of_all = vec![setting.clone()];
    let mut target = cluster(15, "postgres", vec![]);
    assert!(plan(&source, &target, &[]).warnings[0].starts_with("ALTER ROLE ALL SET work_mem: "));
    target.settings_of_all = vec![setting];
    assert!(plan(&source, &target, &[]).warnings.is_empty());
}
