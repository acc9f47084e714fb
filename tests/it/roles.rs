//! Roles arrive with all they have; what a target refuses has a name; nobody who was there is touched.
//!
//! Roles belong to a whole server, so each scenario has a pair of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use pgstream::catalog::Owners;
use pgstream::demo::{Cluster, ClusterOptions};
use pgstream::error::ErrorKind;
use pgstream::pg::{Conninfo, Secret};
use pgstream::schema::{
    CarriedRole, CarriedRoles, RolePattern, RoleSettings, RoleStatus, carry_roles, join_roles, leave_roles,
    owners_in_use, roles_to_join, settle_owners,
};
use pgstream::verify::compare_rights;
use pgstream::wire::{Session, SessionSettings};

use crate::support::scenario::{Scenario, Side, source_options, target_options};

/// Thirty roles: every attribute, nested memberships with a grantor of their own, settings, comments, limits.
pub(crate) const ROLES: &str = r#"
DO $$ BEGIN FOR n IN 1..14 LOOP EXECUTE format('CREATE ROLE team_%s NOLOGIN', n); END LOOP; END $$;
DO $$ BEGIN FOR n IN 2..14 LOOP EXECUTE format('GRANT team_%s TO team_%s', n, n - 1); END LOOP; END $$;
SET password_encryption = 'scram-sha-256';
CREATE ROLE app LOGIN PASSWORD 'a secret' CONNECTION LIMIT 7 VALID UNTIL '2031-05-06 07:08:09+02';
CREATE ROLE "My ""odd"" role" LOGIN NOINHERIT PASSWORD 'an odd secret' VALID UNTIL 'infinity';
SET password_encryption = 'md5';
CREATE ROLE old LOGIN PASSWORD 'an old secret';
CREATE ROLE no_password LOGIN;
CREATE ROLE group_with_password NOLOGIN PASSWORD 'a secret of many';
CREATE ROLE boss SUPERUSER LOGIN;
CREATE ROLE maker CREATEDB CREATEROLE;
CREATE ROLE streamer REPLICATION LOGIN;
CREATE ROLE bypasser BYPASSRLS;
CREATE ROLE "ÄÖÜ\backslash" LOGIN;
CREATE ROLE dated VALID UNTIL '-infinity';
CREATE ROLE admin_of_team; CREATE ROLE granted_by_admin; CREATE ROLE reader; CREATE ROLE writer; CREATE ROLE monitor;
GRANT team_1 TO admin_of_team WITH ADMIN OPTION;
SET ROLE admin_of_team; GRANT team_1 TO granted_by_admin; RESET ROLE;
GRANT pg_monitor TO monitor; GRANT pg_read_all_data TO reader;
GRANT reader TO app; GRANT writer TO app WITH ADMIN OPTION; GRANT reader TO postgres;
ALTER ROLE app SET search_path TO "$user", 'My Schema', public;
ALTER ROLE app SET statement_timeout TO '30s';
ALTER ROLE app SET app.tenant TO 'it''s \ "quoted"';
ALTER ROLE reader SET default_transaction_read_only TO on;
COMMENT ON ROLE app IS 'the application''s \ own';
COMMENT ON ROLE team_1 IS 'the first';
GRANT SET ON PARAMETER log_min_duration_statement TO maker WITH GRANT OPTION;
GRANT ALTER SYSTEM ON PARAMETER work_mem TO writer;
"#;

/// `pg_dumpall --globals-only`, without what differs between any two.
pub(crate) fn globals(side: &Side) -> Vec<String> {
    let programs = Cluster::installations().into_iter().map(|one| one.program("pg_dumpall"));
    let program = programs.filter(|program| program.is_file()).chain(["pg_dumpall".into()]).next();
    let output = Command::new(program.expect("the chain is not empty"))
        .args(["--globals-only", "--dbname", &side.dsn()])
        .output()
        .expect("pg_dumpall is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let noise = ["\\restrict", "\\unrestrict", "--"];
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.is_empty() && !noise.iter().any(|start| line.starts_with(start)))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

async fn connect(side: &Side, user: &str) -> Session {
    let conninfo = Conninfo { user: user.to_owned(), ..side.cluster.conninfo(&side.dbname) };
    Session::connect(&conninfo, &SessionSettings::role("test")).await.expect("a session")
}

async fn carry(scenario: &Scenario, target_user: &str, settings: &RoleSettings) -> CarriedRoles {
    let source = connect(&scenario.source, "postgres").await;
    let target = connect(&scenario.target, target_user).await;
    carry_roles(&source, &target, settings).await.expect("roles are carried")
}

fn by_name(carried: &CarriedRoles) -> BTreeMap<&str, &CarriedRole> {
    carried.roles.iter().map(|role| (role.name.as_str(), role)).collect()
}

fn message<'a>(carried: &'a CarriedRoles, role: &str) -> &'a str {
    by_name(carried)[role].message.as_deref().unwrap_or("")
}

async fn verifiers(side: &Side) -> Vec<String> {
    let sql = "SELECT rolname || ' ' || coalesce(rolpassword, '-') FROM pg_authid WHERE oid <> 10 \
               AND rolname !~ '^pg_' AND rolname <> 'mover' ORDER BY 1";
    let rows = side.session().await.query(sql, &[]).await.expect("a superuser's session");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn thirty_roles_arrive_as_they_were() {
    let scenario = Scenario::own("roles").await;
    scenario.source.execute(ROLES).await;
    let expected = globals(&scenario.source);
    let carried = carry(&scenario, "postgres", &RoleSettings::default()).await;
    let created: Vec<_> = carried.roles.iter().filter(|role| role.status == RoleStatus::Created).collect();
    assert_eq!(created.len(), 30, "{carried:#?}");
    assert!(created.iter().all(|role| role.message.is_none() && role.placeholder.is_none()), "{carried:#?}");
    let postgres = by_name(&carried)["postgres"];
    assert_eq!(postgres.status, RoleStatus::Skipped);
    // The one thing to say: a login with an md5 verifier depends on the target's pg_hba.conf.
    assert_eq!(carried.warnings.len(), 1, "{carried:#?}");
    assert!(carried.warnings[0].contains("group_with_password, old are kept as md5"), "{carried:#?}");
    if scenario.source.major() == scenario.target.major() {
        assert_eq!(globals(&scenario.target), expected);
    }
    assert_eq!(verifiers(&scenario.target).await, verifiers(&scenario.source).await);

    let before = globals(&scenario.target);
    let again = carry(&scenario, "postgres", &RoleSettings::default()).await;
    let quiet = |role: &&CarriedRole| role.status == RoleStatus::Exists && role.message.is_none();
    assert_eq!(again.roles.iter().filter(quiet).count(), 30, "{again:#?}");
    assert_eq!(globals(&scenario.target), before);
}

/// The very first role of a cluster has the first OID that is not the system's.
#[tokio::test]
async fn the_first_role_is_carried_too() {
    let scenario = Scenario::own("first").await;
    // The scenario's own database has taken the first OID; in a real cluster a role may have it.
    let sql = "SET allow_system_table_mods = on; CREATE ROLE first; \
               UPDATE pg_catalog.pg_authid SET oid = 16384 WHERE rolname = 'first'";
    scenario.source.execute(sql).await;
    let carried = carry(&scenario, "postgres", &RoleSettings::default()).await;
    assert_eq!(by_name(&carried)["first"].status, RoleStatus::Created);
}

async fn with_mover(name: &str, options: ClusterOptions) -> Scenario {
    let scenario = Scenario::own_with(name, source_options(), options).await;
    scenario.source.execute(ROLES).await;
    scenario.target.execute("CREATE ROLE mover LOGIN CREATEROLE CREATEDB").await;
    scenario.target.execute("GRANT CREATE ON DATABASE postgres TO mover").await;
    scenario
}

#[tokio::test]
async fn what_is_refused_to_an_ordinary_user_is_named_and_the_rest_arrives() {
    let scenario = with_mover("ordinary", target_options()).await;
    let carried = carry(&scenario, "mover", &RoleSettings::default()).await;
    let failed: Vec<_> = carried.roles.iter().filter(|role| role.status == RoleStatus::Failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for (role, lost) in [
        ("boss", "without SUPERUSER"),
        ("streamer", "without REPLICATION"),
        ("bypasser", "without BYPASSRLS"),
        ("maker", "SET on parameter log_min_duration_statement"),
    ] {
        assert!(message(&carried, role).contains(lost), "{role}: {}", message(&carried, role));
        assert_eq!(by_name(&carried)[role].status, RoleStatus::Created);
    }
    // A setting that no extension has defined is a superuser's to give.
    let lost = message(&carried, "app");
    assert!(lost.starts_with("without its setting of app.tenant") && !lost.contains(';'), "{lost}");
    let grantor = carried.warnings.iter().any(|warning| warning.contains("recorded as granted by \"mover\""));
    assert!(grantor, "{:#?}", carried.warnings);
    assert_eq!(verifiers(&scenario.target).await, verifiers(&scenario.source).await);
    let missing = "SELECT count(*) FROM pg_catalog.pg_auth_members";
    let (source, target): (i64, i64) =
        (scenario.source.value(missing).await, scenario.target.value(missing).await);
    // From 16 on its maker is a member of each role as well; the superuser's own membership is refused him.
    assert!(target >= source - 1, "{source} on the source, {target} on the target: {carried:#?}");
}

#[tokio::test]
async fn our_role_acts_for_owners_while_it_must_and_no_longer() {
    let scenario = with_mover("owners", target_options()).await;
    scenario.source.execute("CREATE TABLE t (); ALTER TABLE t OWNER TO writer").await;
    scenario.source.execute("ALTER DEFAULT PRIVILEGES FOR ROLE reader GRANT SELECT ON TABLES TO app").await;
    let source = connect(&scenario.source, "postgres").await;
    let owners = owners_in_use(&source, std::slice::from_ref(&scenario.source.dbname)).await.expect("owners");
    assert_eq!(owners, ["reader", "writer"]);
    let elsewhere = owners_in_use(&source, &["postgres".to_owned()]).await.expect("owners");
    assert!(elsewhere.is_empty(), "{elsewhere:?}");

    carry(&scenario, "mover", &RoleSettings::default()).await;
    let target = connect(&scenario.target, "mover").await;
    scenario.target.execute(&format!("GRANT CREATE ON DATABASE {} TO mover", scenario.target.dbname)).await;
    let act = "CREATE SCHEMA acts; CREATE TABLE acts.t (); GRANT CREATE ON SCHEMA acts TO writer; \
               ALTER TABLE acts.t OWNER TO writer; ALTER TABLE acts.t ADD a int; DROP SCHEMA acts CASCADE";
    assert!(target.batch_execute(act).await.is_err(), "without membership it must not work");

    let wanted = roles_to_join(&target, &owners).await.expect("a question");
    assert_eq!(wanted, owners);
    let members =
        "SELECT count(*) FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.member WHERE rolname = 'mover'";
    let before: i64 = scenario.target.value(members).await;
    let joined = join_roles(&target, &wanted).await.expect("joined");
    assert!(joined.is_empty(), "{joined:?}");
    assert!(roles_to_join(&target, &owners).await.expect("a question").is_empty());
    target.batch_execute(act).await.expect("as a member it works");
    late_owners(&scenario, &source, &target).await;
    for _ in 0..2 {
        let left = leave_roles(&target, &wanted).await.expect("left");
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(scenario.target.value::<i64>(members).await, before);
    }
    // What is refused is a warning with the role's name; a role that is gone is nothing.
    let refused = join_roles(&target, &["postgres".to_owned()]).await.expect("an answer");
    assert!(refused.len() == 1 && refused[0].contains("may not act for postgres"), "{refused:?}");
    assert!(leave_roles(&target, &["gone".to_owned()]).await.expect("an answer").is_empty());
}

/// pg_restore sets an owner before anybody has rights on the schema (P70, P72); so what was refused is done later.
async fn late_owners(scenario: &Scenario, source: &Session, target: &Session) {
    let objects = "CREATE SCHEMA late; CREATE TABLE late.\"T 1\" (id serial); CREATE VIEW late.v AS SELECT 1 AS a; \
                   CREATE FUNCTION late.f(int, VARIADIC text[]) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
                   CREATE AGGREGATE late.a(int) (SFUNC = int4pl, STYPE = int); \
                   CREATE SEQUENCE late.s; CREATE DOMAIN late.d AS int; CREATE TYPE late.c AS (a int);";
    let give = "ALTER TABLE late.\"T 1\" OWNER TO writer; ALTER VIEW late.v OWNER TO writer; \
                ALTER FUNCTION late.f OWNER TO writer; ALTER AGGREGATE late.a(int) OWNER TO writer; \
                ALTER SEQUENCE late.s OWNER TO writer; ALTER DOMAIN late.d OWNER TO writer; \
                ALTER TYPE late.c OWNER TO writer; ALTER SCHEMA late OWNER TO reader; GRANT CREATE ON SCHEMA late TO writer";
    scenario.source.execute(&format!("{objects} {give}")).await;
    target.batch_execute(objects).await.expect("objects");
    let refused = settle_owners(source, target).await.expect("an answer");
    assert_eq!(refused.len(), 7, "without CREATE on the schema nobody but its owner changes: {refused:#?}");
    assert!(refused.iter().all(|one| one.contains("permission denied for schema late")), "{refused:#?}");
    scenario.target.execute("GRANT CREATE ON SCHEMA late TO writer").await;
    assert_eq!(settle_owners(source, target).await.expect("an answer"), Vec::<String>::new());
    let ours = "SELECT count(*) FROM pg_class WHERE relnamespace = 'late'::regnamespace \
                AND relowner = 'mover'::regrole AND relkind <> 'c'";
    assert_eq!(scenario.target.value::<i64>(ours).await, 0);
    let rights = compare_rights(source, target, Owners::Kept).await.expect("compared");
    assert!(!rights.iter().any(|one| one.contains(" late")), "{rights:#?}");
}

/// Nobody but a superuser reads verifiers. What stands for them is in the file, works, and is nowhere else.
#[tokio::test]
async fn unreadable_passwords_become_placeholders_that_only_the_file_knows() {
    let hba = vec!["host all app all scram-sha-256".to_owned()];
    let settings = vec![("log_statement".to_owned(), "all".to_owned())];
    let scenario = with_mover("placeholders", ClusterOptions { hba, settings, ..target_options() }).await;
    scenario.source.execute("CREATE ROLE watcher LOGIN").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("passwords");
    let roles = RoleSettings { password_file: Some(file.clone()), ..RoleSettings::default() };
    let source = connect(&scenario.source, "watcher").await;
    let target = connect(&scenario.target, "mover").await;
    let carried = carry_roles(&source, &target, &roles).await.expect("roles are carried");

    let has: Vec<&str> = carried
        .roles
        .iter()
        .filter(|role| role.placeholder.is_some())
        .map(|role| role.name.as_str())
        .collect();
    let may_log_in =
        "SELECT rolname FROM pg_roles WHERE rolcanlogin AND oid <> 10 ORDER BY rolname COLLATE \"C\"";
    let rows = scenario.source.session().await.query(may_log_in, &[]).await.expect("roles");
    let may_log_in: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(has, may_log_in);
    assert!(message(&carried, "app").contains("a placeholder stands for it"));

    let text = fs::read_to_string(&file).expect("the file");
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    let log = scenario.target.cluster.log();
    assert!(log.contains("ALTER ROLE"), "the log was meant to be full:\n{log}");
    for role in &carried.roles {
        let Some(placeholder) = &role.placeholder else { continue };
        assert!(text.contains(placeholder.reveal()), "{}", role.name);
        assert!(!log.contains(placeholder.reveal()), "{}", role.name);
        assert!(!format!("{carried:?}").contains(placeholder.reveal()));
    }
    let line = text.lines().find(|line| line.starts_with("*:*:*:app:")).expect("a line for app");
    let password = Secret::new(line.rsplit(':').next().unwrap_or_default());
    let app = Conninfo {
        user: "app".to_owned(),
        password: Some(password),
        ..scenario.target.cluster.conninfo(&scenario.target.dbname)
    };
    Session::connect(&app, &SessionSettings::role("test")).await.expect("the placeholder lets app in");
    let wrong = Conninfo { password: Some(Secret::new("a secret")), ..app };
    Session::connect(&wrong, &SessionSettings::role("test")).await.expect_err("nothing else does");

    let again = carry_roles(&source, &target, &roles).await.expect("again");
    assert!(again.roles.iter().all(|role| role.placeholder.is_none()));
    assert_eq!(fs::read_to_string(&file).expect("the file"), text);
}

/// A superuser's session writes no verifier to the server's log, whatever that logs otherwise.
#[tokio::test]
async fn a_superusers_session_keeps_verifiers_out_of_the_log() {
    let settings = vec![("log_statement".to_owned(), "all".to_owned())];
    let scenario =
        Scenario::own_with("log", source_options(), ClusterOptions { settings, ..target_options() }).await;
    scenario.source.execute(ROLES).await;
    carry(&scenario, "postgres", &RoleSettings::default()).await;
    let log = scenario.target.cluster.log();
    assert!(log.contains("CREATE ROLE \"app\"") && log.contains("GRANT \"reader\""), "{log}");
    for line in log.lines().filter(|line| !line.contains(" test: ")) {
        assert!(!line.contains("SCRAM-SHA-256$") && !line.contains("md5"), "{line}");
    }
}

/// The file cannot be written: then no role is made whose password nobody would know.
#[tokio::test]
async fn roles_and_their_placeholders_come_together_or_not_at_all() {
    let scenario = with_mover("atomic", target_options()).await;
    scenario.source.execute("CREATE ROLE watcher LOGIN").await;
    let before = globals(&scenario.target);
    let file = Some("/nowhere/at/all".into());
    let roles = RoleSettings { password_file: file, ..RoleSettings::default() };
    let source = connect(&scenario.source, "watcher").await;
    let target = connect(&scenario.target, "postgres").await;
    let error = carry_roles(&source, &target, &roles).await.expect_err("no such folder");
    assert_eq!(error.kind(), ErrorKind::Local);
    assert_eq!(globals(&scenario.target), before);
    carry_roles(&source, &target, &RoleSettings::default()).await.expect("the session is still good");
}

#[tokio::test]
async fn roles_of_others_are_left_out() {
    let options = ClusterOptions {
        settings: vec![("aiven.pg_security_agent_reserved_roles".to_owned(), "keeper, other".to_owned())],
        ..target_options()
    };
    let scenario = Scenario::own_with("others", source_options(), options).await;
    let sql = "CREATE ROLE rds_superuser; CREATE ROLE rds_replication; CREATE ROLE azure_sync; CREATE ROLE keeper; \
               CREATE ROLE tmp_1; CREATE ROLE tmp_2; CREATE ROLE \"Tmp_3\"; CREATE ROLE app IN ROLE rds_superuser, tmp_1";
    scenario.source.execute(sql).await;
    let roles = RoleSettings { excluded: RolePattern::list("tmp_*,nobody"), ..RoleSettings::default() };
    let carried = carry(&scenario, "postgres", &roles).await;
    let status = |role: &str| by_name(&carried)[role].status;
    for (role, why) in [
        ("rds_superuser", "a role of the service (Amazon RDS)"),
        ("rds_replication", "a role of the service (Amazon RDS)"),
        ("keeper", "reserved by the target's security agent"),
        ("tmp_1", "excluded by tmp_*"),
        ("tmp_2", "excluded by tmp_*"),
    ] {
        assert_eq!((status(role), message(&carried, role)), (RoleStatus::Skipped, why));
    }
    // A name like a service's is a name like another where that service is not.
    assert_eq!(status("azure_sync"), RoleStatus::Created);
    assert_eq!(status("Tmp_3"), RoleStatus::Created);
    let lost = message(&carried, "app");
    assert!(lost.contains("no member of rds_superuser") && lost.contains("no member of tmp_1"), "{lost}");
}

#[tokio::test]
async fn who_was_there_stays_as_he_was() {
    let scenario = Scenario::own("there").await;
    let source = "CREATE ROLE app LOGIN CREATEDB PASSWORD 'new' CONNECTION LIMIT 3; ALTER ROLE app SET work_mem = '1MB'; \
                  CREATE ROLE admin; CREATE ROLE clerk IN ROLE admin; CREATE ROLE reader; GRANT reader TO app; \
                  CREATE ROLE staff; GRANT staff TO app";
    let target = "CREATE ROLE app LOGIN PASSWORD 'old'; CREATE ROLE admin SUPERUSER; CREATE ROLE staff";
    scenario.source.execute(source).await;
    scenario.target.execute(target).await;
    let password = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    let before: String = scenario.target.value(password).await;
    let carried = carry(&scenario, "postgres", &RoleSettings::default()).await;
    assert_eq!(by_name(&carried)["app"].status, RoleStatus::Exists);
    for part in [
        "CREATEDB on the source only",
        "connection limit -1, not 3",
        "another password",
        "no setting of work_mem",
        "no member of staff on the target",
    ] {
        assert!(message(&carried, "app").contains(part), "{part}: {}", message(&carried, "app"));
    }
    assert_eq!(scenario.target.value::<String>(password).await, before);
    // Of a new role's members nobody is left out; but nobody becomes a superuser by its name.
    let member = "SELECT string_agg(r.rolname || ' in ' || g.rolname, ', ' ORDER BY 1) FROM pg_auth_members a \
                  JOIN pg_roles r ON r.oid = a.member JOIN pg_roles g ON g.oid = a.roleid WHERE r.rolname !~ '^pg_'";
    assert_eq!(scenario.target.value::<String>(member).await, "app in reader");
    assert!(message(&carried, "clerk").contains("may do more on the target"), "{carried:#?}");
}
