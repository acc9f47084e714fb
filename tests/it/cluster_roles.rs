//! Who may do what, after a whole migration: with a superuser on the target, and with less.
//!
//! Roles belong to a whole server, so each scenario has a pair of its own.

use pgstream::verify::compare_database;
use serde_json::Value;

use crate::roles::{ROLES, globals};
use crate::support::engine::{Engine, Outcome};
use crate::support::eventually;
use crate::support::migration::{RUN, STOP, words};
use crate::support::scenario::{Scenario, Side};

/// Everything that has an owner or rights, and none of it a superuser's.
const CONTENT: &str = r#"
    GRANT CREATE ON SCHEMA public TO app;
    CREATE SCHEMA sales AUTHORIZATION writer;
    CREATE SCHEMA "My Schema" AUTHORIZATION "My ""odd"" role";
    CREATE TABLE sales.orders (id serial PRIMARY KEY, v text, secret text);
    INSERT INTO sales.orders (v) SELECT 'order ' || i FROM generate_series(1, 300) AS i;
    ALTER TABLE sales.orders OWNER TO writer;
    CREATE INDEX ON sales.orders (v);
    CREATE TABLE public.app_own (id int PRIMARY KEY, orders int REFERENCES sales.orders);
    INSERT INTO app_own VALUES (1, 1), (2, 2);
    ALTER TABLE app_own OWNER TO app;
    CREATE TABLE "My Schema"."T" (id int PRIMARY KEY); ALTER TABLE "My Schema"."T" OWNER TO "My ""odd"" role";
    CREATE VIEW sales.large AS SELECT id, v FROM sales.orders WHERE id > 200; ALTER VIEW sales.large OWNER TO writer;
    CREATE MATERIALIZED VIEW sales.summed AS SELECT count(*) FROM sales.orders;
    ALTER MATERIALIZED VIEW sales.summed OWNER TO writer;
    CREATE FUNCTION sales.f(int) RETURNS int LANGUAGE sql AS 'SELECT $1'; ALTER FUNCTION sales.f OWNER TO writer;
    REVOKE ALL ON FUNCTION sales.f FROM PUBLIC; GRANT EXECUTE ON FUNCTION sales.f TO app;
    CREATE DOMAIN sales.positive AS int CHECK (VALUE > 0); ALTER DOMAIN sales.positive OWNER TO writer;
    GRANT USAGE ON SCHEMA sales TO reader, app;
    GRANT SELECT ON sales.large TO reader WITH GRANT OPTION; GRANT SELECT (id, v), UPDATE (v) ON sales.orders TO app;
    GRANT USAGE ON SEQUENCE sales.orders_id_seq TO app;
    ALTER DEFAULT PRIVILEGES FOR ROLE writer IN SCHEMA sales GRANT SELECT ON TABLES TO reader;
    ALTER DEFAULT PRIVILEGES FOR ROLE writer REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
    SELECT lo_create(4711); ALTER LARGE OBJECT 4711 OWNER TO writer; GRANT SELECT ON LARGE OBJECT 4711 TO app;
"#;

const SETTINGS: [&str; 4] = [
    "ALTER DATABASE shop SET search_path TO sales, public",
    "ALTER DATABASE shop CONNECTION LIMIT 40",
    "ALTER ROLE app IN DATABASE shop SET work_mem TO '2MB'",
    "ALTER ROLE reader IN DATABASE shop SET statement_timeout TO '9s'",
];

fn shop(of: &Side) -> Side {
    Side { cluster: of.cluster.clone(), dbname: "shop".to_owned() }
}

/// A database of thirty roles on the source, and nothing on the target.
async fn scenario(name: &str) -> Scenario {
    let scenario = Scenario::own(name).await;
    scenario.source.execute(ROLES).await;
    scenario.source.execute_alone("CREATE DATABASE shop").await;
    shop(&scenario.source).execute(CONTENT).await;
    for setting in SETTINGS {
        scenario.source.execute_alone(setting).await;
    }
    scenario
}

fn start(scenario: &Scenario, user: &str, more: &[&str]) -> Engine {
    let dsn = |side: &Side, user: &str| format!("host=127.0.0.1 port={} user={user}", side.cluster.port());
    let own = scenario.source.cluster.conninfo("x").user;
    let (source, target) = (dsn(&scenario.source, &own), dsn(&scenario.target, user));
    let ends = ["migrate", "--json", "--database", "shop", "--source", &source, "--target", &target];
    Engine::start([&ends, more].concat())
}

async fn moved(scenario: &Scenario, user: &str, more: &[&str]) -> Value {
    let ended: Outcome = start(scenario, user, &words(&[&STOP, more])).wait(RUN).await.expect_code(0);
    let result = ended.json();
    assert_eq!(result["status"], "done", "{result}");
    let session = async |side: &Side| side.cluster.session("shop").await.expect("connect");
    let (source, target) = (session(&scenario.source).await, session(&scenario.target).await);
    let comparison = compare_database(&source, &target).await.expect("compared");
    assert!(comparison.is_equal() && !comparison.relations.is_empty(), "{comparison}");
    result
}

fn warnings(result: &Value) -> Vec<&str> {
    result["warnings"].as_array().expect("an array").iter().filter_map(Value::as_str).collect()
}

/// The settings of databases, which `pg_dumpall --globals-only` leaves out.
const OF_DATABASES: &str = "
    SELECT string_agg(concat(d.datname, ' ', r.rolname, ' ', s.setconfig, ' ', d.datconnlimit), '; '
                      ORDER BY d.datname, r.rolname)
    FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole";

#[tokio::test]
async fn a_superuser_moves_thirty_roles_and_all_that_is_theirs() {
    let scenario = scenario("globals").await;
    let result = moved(&scenario, "postgres", &[]).await;
    if scenario.source.major() == scenario.target.major() {
        assert_eq!(globals(&scenario.target), globals(&scenario.source));
    }
    assert_eq!(
        scenario.target.value::<String>(OF_DATABASES).await,
        scenario.source.value::<String>(OF_DATABASES).await
    );
    let pair = Scenario { source: shop(&scenario.source), target: shop(&scenario.target) };
    pair.assert_same_schema().await;
    let created =
        result["roles"].as_array().expect("an array").iter().filter(|role| role["status"] == "created");
    assert_eq!(created.count(), 30, "{result}");
    for unfounded in ["owned by", " only", "missing on the target", "are not set", "not compared", "password"]
    {
        let found: Vec<_> = warnings(&result).into_iter().filter(|one| one.contains(unfounded)).collect();
        assert!(found.iter().all(|one| one.contains("are kept as md5")), "{unfounded}: {found:#?}");
    }
}

#[tokio::test]
async fn a_difference_of_rights_is_named_unless_owners_are_not_wanted() {
    for (name, more) in
        [("dump", ["--method", "dump"].as_slice()), ("owners", &["--method", "dump", "--no-owner"])]
    {
        let scenario = scenario(name).await;
        let result = moved(&scenario, "postgres", &words(&[more, &["--excluded-roles", "writer"]])).await;
        let all = warnings(&result);
        let owned =
            all.iter().filter(|one| one.contains("owned by") && one.contains("not by writer")).count();
        assert_eq!(owned > 0, name == "dump", "{all:#?}");
        let lost =
            "default privileges of writer for tables in schema sales: +reader SELECT on the source only";
        assert!(all.iter().any(|one| one.contains(lost)), "{all:#?}");
    }
}

const MEMBERSHIPS: &str = "SELECT coalesce(string_agg(g.rolname, ',' ORDER BY g.rolname), '') FROM pg_auth_members m
    JOIN pg_roles r ON r.oid = m.member JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles b ON b.oid = m.grantor
    WHERE r.rolname = 'mover' AND b.rolname = 'mover'";

#[tokio::test]
async fn an_ordinary_user_does_what_he_may_and_keeps_nothing() {
    let scenario = scenario("ordinary").await;
    scenario.target.execute("CREATE ROLE mover LOGIN CREATEROLE CREATEDB").await;
    let result = moved(&scenario, "mover", &[]).await;
    let target = shop(&scenario.target);
    assert_eq!(target.value::<String>(MEMBERSHIPS).await, "", "what was joined is left");
    let state = "SELECT to_regnamespace('pgstream') IS NULL";
    assert!(target.holds(state).await, "{result}");
    let ours = "SELECT coalesce(string_agg(oid::regclass::text, ', '), '') FROM pg_class \
                WHERE relowner = 'mover'::regrole AND relkind NOT IN ('t', 'i')";
    assert_eq!(target.value::<String>(ours).await, "", "every owner is as he was: {result:#}");
    let all = warnings(&result);
    let kept: Vec<_> = all.iter().filter(|one| one.contains("owned by mover")).collect();
    assert_eq!(
        kept,
        [&"the database: owned by mover on the target, not by the bootstrap superuser"],
        "{all:#?}"
    );
    assert!(!all.iter().any(|one| one.contains("default privileges")), "{all:#?}");
    assert!(!all.iter().any(|one| one.contains("missing on the target")), "{all:#?}");
    let role = |name: &str| {
        let roles = result["roles"].as_array().expect("an array");
        roles.iter().find(|role| role["rolname"] == name).expect("the role").clone()
    };
    assert_eq!(role("boss")["status"], "created");
    assert!(role("boss")["message"].as_str().expect("a message").contains("without SUPERUSER"));
}

#[tokio::test]
async fn what_was_joined_is_left_by_an_interrupted_run_and_by_cleanup_after_a_killed_one() {
    let scenario = scenario("killed").await;
    scenario.target.execute("CREATE ROLE mover LOGIN CREATEROLE CREATEDB").await;
    let target = shop(&scenario.target);
    let following = "SELECT phase = 'following' FROM pgstream.migration";
    let joined = format!("SELECT ({MEMBERSHIPS}) LIKE '%app,%writer'");

    let engine = start(&scenario, "mover", &[]);
    eventually("it follows", async || target.holds(following).await).await;
    assert!(target.holds(&joined).await, "{}", target.value::<String>(MEMBERSHIPS).await);
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    assert_eq!(target.value::<String>(MEMBERSHIPS).await, "");

    let engine = start(&scenario, "mover", &[]);
    eventually("it joins again", async || target.holds(&joined).await).await;
    engine.kill().await;
    let dsn = |side: &Side, user: &str| {
        format!("host=127.0.0.1 port={} user={user} dbname=shop", side.cluster.port())
    };
    let own = scenario.source.cluster.conninfo("x").user;
    let (source, mover) = (dsn(&scenario.source, &own), dsn(&scenario.target, "mover"));
    let clean = ["cleanup", "--json", "--source", &source, "--target", &mover];
    let report = Engine::start(clean).wait(RUN).await.expect_code(0).json();
    let left =
        report["found"].as_array().expect("an array").iter().filter(|item| item["kind"] == "membership");
    assert!(left.clone().count() > 1 && left.clone().all(|item| item["status"] == "removed"), "{report}");
    assert_eq!(target.value::<String>(MEMBERSHIPS).await, "");
}
