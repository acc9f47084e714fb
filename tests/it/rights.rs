//! Databases are made with what the source's have, and a difference of owners and rights is seen.

use pgstream::catalog::Owners;
use pgstream::error::{ErrorKind, describe};
use pgstream::pg::Conninfo;
use pgstream::schema::{
    Creation, DatabaseDefinition, RoleSettings, Stage, carry_database_properties, carry_roles,
    create_database, read_databases,
};
use pgstream::verify::compare_rights;
use pgstream::wire::{Session, SessionSettings};

use crate::support::scenario::{Scenario, Side};

const ODD: &str = "My \"odd\"-db";

async fn connect(side: &Side, user: &str, database: &str) -> Session {
    let conninfo = Conninfo { user: user.to_owned(), ..side.cluster.conninfo(database) };
    Session::connect(&conninfo, &SessionSettings::role("test")).await.expect("a session")
}

async fn database(session: &Session, name: &str) -> Option<DatabaseDefinition> {
    let databases = read_databases(session).await.expect("databases");
    databases.into_iter().find(|database| database.name == name)
}

/// A database with everything that one can have.
async fn scenario(name: &str) -> Scenario {
    let scenario = Scenario::own(name).await;
    let roles = "CREATE ROLE app LOGIN; CREATE ROLE owner LOGIN; CREATE ROLE reader; CREATE ROLE granter";
    scenario.source.execute(roles).await;
    let create = r#"CREATE DATABASE "My ""odd""-db" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'
                    OWNER owner CONNECTION LIMIT 9 IS_TEMPLATE true"#;
    scenario.source.execute_alone(create).await;
    let properties = r#"
        COMMENT ON DATABASE "My ""odd""-db" IS 'it''s odd';
        ALTER DATABASE "My ""odd""-db" SET search_path TO app, "$user", public;
        ALTER DATABASE "My ""odd""-db" SET statement_timeout TO '10s';
        ALTER DATABASE "My ""odd""-db" SET app.mode TO 'strict';
        ALTER ROLE app IN DATABASE "My ""odd""-db" SET work_mem TO '2MB';
        REVOKE ALL ON DATABASE "My ""odd""-db" FROM PUBLIC;
        GRANT CONNECT ON DATABASE "My ""odd""-db" TO app, reader;
        GRANT CONNECT, TEMPORARY ON DATABASE "My ""odd""-db" TO granter WITH GRANT OPTION;
        SET ROLE granter; GRANT TEMPORARY ON DATABASE "My ""odd""-db" TO app; RESET ROLE;"#;
    scenario.source.execute(properties).await;
    scenario
}

#[tokio::test]
async fn a_database_is_made_like_the_sources() {
    let scenario = scenario("databases").await;
    let source = connect(&scenario.source, "postgres", "postgres").await;
    let target = connect(&scenario.target, "postgres", "postgres").await;
    carry_roles(&source, &target, &RoleSettings::default()).await.expect("roles");
    let expected = database(&source, ODD).await.expect("it is there");
    assert_eq!((expected.encoding.as_str(), expected.connection_limit), ("LATIN1", 9));
    assert_eq!(expected.settings.len(), 4);

    let created = create_database(&target, &expected, ODD).await.expect("a database");
    assert_eq!((created.creation, created.warnings), (Creation::Created, vec![]));
    let early = carry_database_properties(&target, &expected, ODD, Stage::Early).await.expect("properties");
    assert!(early.is_empty(), "{early:?}");
    let between = database(&target, ODD).await.expect("it is there");
    assert_eq!(between.connection_limit, -1);
    let bites = |database: &DatabaseDefinition| {
        database.settings.iter().any(|one| one.setting.name == "statement_timeout")
    };
    assert!(bites(&expected) && !bites(&between), "{between:?}");
    let last = carry_database_properties(&target, &expected, ODD, Stage::Last).await.expect("properties");
    assert!(last.is_empty(), "{last:?}");
    let mut found = database(&target, ODD).await.expect("it is there");
    let (mut settings, by_text) =
        (expected.clone(), |one: &pgstream::schema::DatabaseSetting| format!("{one:?}"));
    settings.settings.sort_by_key(by_text);
    found.settings.sort_by_key(by_text);
    settings.rights.sort();
    found.rights.sort();
    assert_eq!(found, settings);

    let again = create_database(&target, &expected, ODD).await.expect("it is there");
    assert_eq!((again.creation, again.warnings), (Creation::Exists, vec![]));
    for stage in [Stage::Early, Stage::Last] {
        let warnings = carry_database_properties(&target, &expected, ODD, stage).await.expect("properties");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    let odd = async |side: &Side| connect(side, "postgres", ODD).await;
    let rights =
        compare_rights(&odd(&scenario.source).await, &odd(&scenario.target).await, Owners::Kept).await;
    assert_eq!(rights.expect("compared"), Vec::<String>::new());
}

#[tokio::test]
async fn a_locale_that_the_target_lacks_is_named() {
    let scenario = Scenario::own("locale").await;
    let source = connect(&scenario.source, "postgres", "postgres").await;
    let target = connect(&scenario.target, "postgres", "postgres").await;
    let mut definition = database(&source, "postgres").await.expect("it is there");
    definition.locale.collate = "xx_YY.UTF-8".to_owned();
    definition.locale.ctype = "xx_YY.UTF-8".to_owned();
    let error = create_database(&target, &definition, "sorted").await.expect_err("no such locale");
    assert_eq!(error.kind(), ErrorKind::Schema);
    let advice = error.advice().expect("advice");
    assert!(advice.contains("xx_YY.UTF-8") && advice.contains("--no-createdb"), "{advice}");
    assert!(describe(&error).contains("create database \"sorted\""), "{}", describe(&error));
    assert!(database(&target, "sorted").await.is_none());
}

#[tokio::test]
async fn what_somebody_prepared_on_the_target_stays() {
    let scenario = scenario("prepared").await;
    let source = connect(&scenario.source, "postgres", "postgres").await;
    let target = connect(&scenario.target, "postgres", "postgres").await;
    carry_roles(&source, &target, &RoleSettings::default()).await.expect("roles");
    let definition = database(&source, ODD).await.expect("it is there");
    let prepared = "CREATE ROLE operator; CREATE DATABASE prepared TEMPLATE template0 CONNECTION LIMIT 5";
    for statement in prepared.split("; ") {
        scenario.target.execute_alone(statement).await;
    }
    let sql = "GRANT CONNECT ON DATABASE prepared TO operator; ALTER DATABASE prepared SET app.mode TO 'lax'; \
               COMMENT ON DATABASE prepared IS 'mine'";
    scenario.target.execute(sql).await;

    let created = create_database(&target, &definition, "prepared").await.expect("it is there");
    assert_eq!(created.creation, Creation::Exists);
    let said = created.warnings.join("\n");
    assert!(
        said.contains("encoding is UTF8 on the target, and LATIN1") && said.contains("owner is"),
        "{said}"
    );
    let mut said = Vec::new();
    for stage in [Stage::Early, Stage::Last] {
        said.extend(
            carry_database_properties(&target, &definition, "prepared", stage).await.expect("properties"),
        );
    }
    let all = said.join("\n");
    for part in
        ["app.mode: another value", "comment: another one", "connection limit: 5", "operator has CONNECT"]
    {
        assert!(all.contains(part), "{part}: {all}");
    }
    let found = database(&target, "prepared").await.expect("it is there");
    let has = |grantee: Option<&str>| found.rights.iter().any(|right| right.grantee.as_deref() == grantee);
    // Named roles get their rights; nothing is taken from anybody.
    assert!(has(Some("app")) && has(Some("operator")) && has(None), "{found:#?}");
    assert_eq!((found.connection_limit, found.comment.as_deref()), (5, Some("mine")));
}

/// REVOKE CONNECT FROM PUBLIC would lock out a mover who is not the owner: it waits for the last stage.
#[tokio::test]
async fn nobody_locks_himself_out() {
    let scenario = scenario("lock_out").await;
    scenario.target.execute("CREATE ROLE mover LOGIN CREATEROLE CREATEDB").await;
    let source = connect(&scenario.source, "postgres", "postgres").await;
    let superuser = connect(&scenario.target, "postgres", "postgres").await;
    let target = connect(&scenario.target, "mover", "postgres").await;
    carry_roles(&source, &superuser, &RoleSettings::default()).await.expect("roles");
    let definition = database(&source, ODD).await.expect("it is there");
    let created = create_database(&target, &definition, ODD).await.expect("a database");
    let refused = "our role may not give it to its owner owner: ours owns it";
    assert_eq!((created.creation, created.warnings), (Creation::Created, vec![refused.to_owned()]));
    // As if it had been given away, with rights for the owner alone to grant.
    scenario.target.execute(r#"ALTER DATABASE "My ""odd""-db" OWNER TO owner"#).await;
    scenario.target.execute("GRANT owner TO mover").await;
    scenario.target.execute("ALTER ROLE mover NOINHERIT").await;
    scenario.target.execute(r#"GRANT CREATE ON DATABASE "My ""odd""-db" TO PUBLIC"#).await;
    scenario.target.execute(r#"REVOKE CREATE ON DATABASE "My ""odd""-db" FROM PUBLIC"#).await;
    let warnings =
        carry_database_properties(&target, &definition, ODD, Stage::Early).await.expect("properties");
    assert!(!warnings.is_empty(), "an ordinary user who is not the owner cannot do all this");
    connect(&scenario.target, "mover", ODD).await;
}

const OBJECTS: &str = r#"
CREATE SCHEMA app AUTHORIZATION owner;
CREATE TABLE app.t (id int, secret text); ALTER TABLE app.t OWNER TO owner;
GRANT SELECT ON app.t TO reader; GRANT UPDATE (secret) ON app.t TO app;
CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION app.f(int) FROM PUBLIC;
CREATE VIEW app.v AS SELECT 1 AS a; CREATE SEQUENCE app.s; CREATE DOMAIN app.d AS int;
CREATE TYPE app.e AS ENUM ('a'); CREATE MATERIALIZED VIEW app.m AS SELECT 1 AS a;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA app GRANT SELECT ON TABLES TO reader;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(double precision) FROM PUBLIC;
SELECT lo_create(4711); ALTER LARGE OBJECT 4711 OWNER TO owner; GRANT SELECT ON LARGE OBJECT 4711 TO reader;
"#;

#[tokio::test]
async fn a_difference_of_rights_is_seen_and_equality_is_quiet() {
    let scenario = scenario("compare").await;
    let source = connect(&scenario.source, "postgres", "postgres").await;
    let target = connect(&scenario.target, "postgres", "postgres").await;
    carry_roles(&source, &target, &RoleSettings::default()).await.expect("roles");
    scenario.source.execute(OBJECTS).await;
    scenario.target.execute(OBJECTS).await;
    let compare = async || {
        let (source, target) = (scenario.source.session().await, scenario.target.session().await);
        for session in [&source, &target] {
            session.batch_execute("SET search_path = ''").await.expect("a pin");
        }
        compare_rights(&source, &target, Owners::Kept).await.expect("compared")
    };
    assert_eq!(compare().await, Vec::<String>::new());
    for (change, expected) in [
        ("ALTER TABLE app.t OWNER TO app", "table app.t: owned by app on the target, not by owner"),
        (
            "GRANT EXECUTE ON FUNCTION app.f(int) TO PUBLIC",
            "function app.f(integer): -PUBLIC EXECUTE on the source only",
        ),
        ("REVOKE SELECT ON app.t FROM reader", "table app.t: +reader SELECT on the source only"),
        ("REVOKE UPDATE (secret) ON app.t FROM app", "column app.t.secret: +app UPDATE on the source only"),
        ("GRANT USAGE ON SEQUENCE app.s TO reader", "sequence app.s: +reader USAGE on the target only"),
        (
            "ALTER DOMAIN app.d OWNER TO app",
            "type app.d: owned by app on the target, not by the bootstrap superuser",
        ),
        ("ALTER MATERIALIZED VIEW app.m OWNER TO app", "materialized view app.m: owned by app"),
        ("GRANT USAGE ON SCHEMA app TO PUBLIC", "schema app: +PUBLIC USAGE on the target only"),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "schema public: +PUBLIC CREATE on the target only"),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA app GRANT INSERT ON TABLES TO reader",
            "default privileges of owner for tables in schema app: +reader INSERT on the target only",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_sleep(double precision) TO PUBLIC",
            "function pg_sleep(double precision): -PUBLIC EXECUTE on the source only",
        ),
        (
            "GRANT UPDATE ON LARGE OBJECT 4711 TO reader",
            "large objects of owner with +reader SELECT, +reader UPDATE: 1",
        ),
        ("ALTER DATABASE it_0_compare OWNER TO app", "the database: owned by app on the target"),
    ] {
        let change = change.replace("it_0_compare", &scenario.target.dbname);
        scenario.target.execute(&change).await;
        let found = compare().await;
        assert!(found.iter().any(|one| one.starts_with(expected)), "{change}: {expected}\n{found:#?}");
    }
}
