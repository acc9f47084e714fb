//! Several databases, or all of a server, by one command; and every way to name them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pgstream::demo::{Cluster, ClusterOptions};
use pgstream::verify::compare_database;
use serde_json::Value;

use crate::support::engine::{Engine, Outcome};
use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, RUN, STOP, migrate, words};
use crate::support::scenario::{Scenario, Side, source_options};

const ODD: &str = "My \"odd\"-db";

/// Another database of the same server.
fn side(of: &Side, dbname: &str) -> Side {
    Side { cluster: of.cluster.clone(), dbname: dbname.to_owned() }
}

/// A connection string that names no database.
fn nameless(cluster: &Cluster) -> String {
    format!("host=127.0.0.1 port={} user={}", cluster.port(), cluster.conninfo("x").user)
}

/// `pgstream COMMAND` between two servers, as JSON.
fn run(command: &str, scenario: &Scenario, more: &[&str]) -> Engine {
    let (source, target) = (nameless(&scenario.source.cluster), nameless(&scenario.target.cluster));
    Engine::start([&[command, "--json", "--source", &source, "--target", &target], more].concat())
}

/// What became of one database.
fn database<'v>(result: &'v Value, name: &str) -> &'v Value {
    let databases = result["databases"].as_array().expect("an array");
    let found = databases.iter().find(|database| database["dbname"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {result}"))
}

fn names(result: &Value) -> Vec<&str> {
    let databases = result["databases"].as_array().expect("an array");
    databases.iter().filter_map(|database| database["dbname"].as_str()).collect()
}

/// Asserts that a database is the same on both servers, under these names.
async fn assert_same(scenario: &Scenario, source: &str, target: &str) {
    let one = scenario.source.cluster.session(source).await.unwrap();
    let other = scenario.target.cluster.session(target).await.unwrap();
    let comparison = compare_database(&one, &other).await.unwrap();
    assert!(comparison.is_equal(), "{source}:\n{comparison}");
    assert!(!comparison.relations.is_empty(), "{source} holds nothing");
    let pair = Scenario { source: side(&scenario.source, source), target: side(&scenario.target, target) };
    pair.assert_same_schema().await;
}

const STATE: &str = "SELECT to_regnamespace('pgstream') IS NOT NULL";
const OURS: &str =
    "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";

const PLAIN: &str = "
    CREATE TABLE orders (id serial PRIMARY KEY, v text);
    INSERT INTO orders (v) SELECT 'order ' || i FROM generate_series(1, 500) AS i;
    CREATE VIEW large AS SELECT * FROM orders WHERE id > 400";

const EXTENSIONS: &str = "
    CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION pg_trgm;
    CREATE EXTENSION postgres_fdw; CREATE EXTENSION \"uuid-ossp\";
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid');
    CREATE TABLE things (id uuid PRIMARY KEY DEFAULT public.uuid_generate_v4(), name citext, more hstore);
    CREATE INDEX ON things USING gin (name gin_trgm_ops);
    INSERT INTO things (name, more) SELECT 'Thing ' || i, hstore('i', i::text) FROM generate_series(1, 50) AS i";

const OBJECTS: &str = "
    CREATE TABLE files (id int PRIMARY KEY, content oid);
    INSERT INTO files SELECT i, lo_from_bytea(0, decode(repeat('ab', i * 1000), 'hex')) FROM generate_series(1, 5) AS i;
    CREATE SEQUENCE down INCREMENT -3 MINVALUE -1000 MAXVALUE 7 START 7 CYCLE;
    CREATE SEQUENCE cached AS smallint CACHE 20; CREATE SEQUENCE untouched START 9;
    SELECT nextval('down'), nextval('down'), nextval('cached'), setval('cached', 77, false)";

async fn five_databases(scenario: &Scenario) {
    let Scenario { source, .. } = scenario;
    for (name, content) in [
        ("extended", EXTENSIONS),
        ("objects", OBJECTS),
        (ODD, "CREATE TABLE \"T\" (id int PRIMARY KEY); INSERT INTO \"T\" VALUES (1), (2)"),
        ("shut", "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)"),
    ] {
        source.cluster.create_database(name).await.unwrap();
        side(source, name).execute(content).await;
    }
    source.execute(PLAIN).await;
    source
        .execute(
            "CREATE ROLE owners NOLOGIN; CREATE ROLE clerk LOGIN PASSWORD 'clerk''s own' CONNECTION LIMIT 7;
             GRANT owners TO clerk; COMMENT ON ROLE clerk IS 'writes orders'; ALTER TABLE orders OWNER TO owners",
        )
        .await;
    source.execute_alone("ALTER DATABASE objects SET work_mem = '7MB'").await;
    source.execute_alone("ALTER DATABASE objects CONNECTION LIMIT 50").await;
    source.execute_alone("ALTER DATABASE shut ALLOW_CONNECTIONS false").await;
}

#[tokio::test]
async fn a_server_of_five_databases_moves_by_one_command_and_a_second_one_mends_the_first() {
    let scenario = Scenario::own("plain").await;
    let Scenario { source, target } = &scenario;
    five_databases(&scenario).await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let report = report.to_str().unwrap();
    let more = words(&[&STOP, &["--report", report, "--migration-id", "run-1", "-v", "-j", "2"]]);

    let first = run("migrate", &scenario, &more).wait(RUN).await.expect_code(1);
    let result = first.json();
    assert_eq!(result["status"], "failed", "{result}");
    assert_eq!(names(&result), [ODD, "extended", source.dbname.as_str(), "objects", "shut"], "{result}");
    let moved = [ODD, "extended", source.dbname.as_str(), "objects"];
    for name in moved {
        assert_eq!(database(&result, name)["status"], "done", "{result}");
        assert_same(&scenario, name, name).await;
        assert!(side(target, name).holds(STATE).await, "{name} is known again by its records");
    }
    let shut = database(&result, "shut");
    assert_eq!(shut["status"], "failed");
    let reason = "does not accept connections";
    assert!(shut["message"].as_str().unwrap().contains(reason), "{result}");
    assert!(first.stderr.contains("ALTER DATABASE \"shut\" ALLOW_CONNECTIONS true"), "{}", first.stderr);
    assert_eq!(source.value::<i64>(OURS).await, 0, "nothing of ours is left on the source");
    let clerk = "SELECT count(*) = 1 FROM pg_roles AS r, pg_auth_members AS m WHERE r.rolname = 'clerk'
        AND rolconnlimit = 7 AND m.member = r.oid AND m.roleid = 'owners'::regrole";
    assert!(target.holds(clerk).await, "{result}");
    let settings = "SELECT datconnlimit = 50 AND setconfig = '{work_mem=7MB}' FROM pg_database AS d
        JOIN pg_db_role_setting ON setdatabase = d.oid WHERE datname = 'objects'";
    assert!(target.holds(settings).await, "{result}");

    let lines: Vec<&str> = first.stderr.lines().filter(|line| line.contains(" INFO ")).collect();
    assert!(lines.iter().all(|line| line.ends_with(" migration_id=run-1")), "{lines:#?}");
    let named = format!("database{{database={:?}}}", "objects");
    assert!(lines.iter().any(|line| line.contains(&named)), "{lines:#?}");
    assert!(first.stderr.contains(" objects: copying"), "{}", first.stderr);
    reported(Path::new(report), &first);

    // What is complete may be in use by now: it is not touched again.
    target.execute("INSERT INTO orders (v) VALUES ('the first of the new server')").await;
    source.execute_alone("ALTER DATABASE shut ALLOW_CONNECTIONS true").await;
    let second = run("migrate", &scenario, &more).wait(RUN).await.expect_code(0).json();
    assert_eq!(second["status"], "done", "{second}");
    assert_eq!(database(&second, &source.dbname)["rows_copied"], 500, "{second}");
    assert_eq!(target.value::<i64>("SELECT count(*) FROM orders").await, 501);
    assert_same(&scenario, "shut", "shut").await;
    for name in moved.into_iter().chain(["shut"]) {
        assert!(!side(target, name).holds(STATE).await, "all is complete: {name} needs no records");
    }
}

/// The report says more than the result, to its owner alone.
fn reported(file: &Path, outcome: &Outcome) {
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&report["migration_id"], &report["exit_status"]), (&"run-1".into(), &1.into()));
    assert_eq!(report["settings"]["copy_jobs"], 2);
    let objects = database(&report, "objects");
    assert_eq!(objects["objects"]["sequences"], 3, "{report}");
    assert_eq!(objects["objects"]["large_objects"], 5, "{report}");
    assert!(objects["position"].is_string() && objects["consistent_point"].is_string(), "{report}");
    let phases = objects["phases"].as_array().unwrap();
    assert!(phases.iter().any(|phase| phase["phase"] == "copying"), "{report}");
    assert_eq!(database(&report, "shut")["error"]["kind"], "auth", "{report}");
    assert_eq!(
        database(&report, "objects")["rows_copied"],
        database(&outcome.json(), "objects")["rows_copied"]
    );
}

#[tokio::test]
async fn databases_are_named_renamed_and_left_out() {
    let scenario = Scenario::own("named").await;
    let Scenario { source, target } = &scenario;
    for name in ["one", "two:odd"] {
        source.cluster.create_database(name).await.unwrap();
        side(source, name).execute(PLAIN).await;
    }
    // It has no key: replication cannot carry it, so its database is blocked and no other.
    side(source, "two:odd").execute("CREATE TABLE keyless (v int); INSERT INTO keyless VALUES (1)").await;
    source.execute(PLAIN).await;

    for (more, sentence) in [
        (vec!["--database", "ONE"], "there is no database \"ONE\" on the source"),
        (vec!["--exclude-db", "ONE"], "there is no database \"ONE\" on the source to leave out"),
        (vec!["--database", "one:x", "--database", "two:x"], "is given twice"),
        (vec!["--database", "one", "--all-databases"], "give one of them"),
        (vec!["--database", "one", "-f", "two"], "--exclude-db leaves databases out of all"),
        (vec!["--report", "/nowhere/report"], "its folder is not there"),
    ] {
        let refused = run("migrate", &scenario, &words(&[&CAUGHT_UP, &more])).wait(RUN).await.expect_code(2);
        assert!(refused.stderr.contains(sentence), "{more:?}: {}", refused.stderr);
    }
    for dsn in ["postgres://[::1", "host=a colour=red", "postgres://u@h/d?sslmode=perhaps"] {
        migrate(dsn, &target.dsn(), &CAUGHT_UP).wait(RUN).await.expect_code(2);
    }

    let pairs = ["--database", "one:new", "--database", "\"two:odd\":second"];
    // Else the one that replication cannot carry would be dumped.
    let streamed = ["--method", "replication"];
    let checked = run("check", &scenario, &words(&[&pairs, &streamed])).wait(RUN).await.expect_code(3).json();
    let blocked = |database: &str| {
        let checks = checked["checks"].as_array().unwrap();
        checks.iter().filter(|check| check["database"] == database && check["verdict"] == "block").count()
    };
    assert_eq!((blocked("one"), blocked("two:odd")), (0, 1), "{checked}");
    assert!(
        !target.holds("SELECT count(*) > 0 FROM pg_database WHERE datname = 'new'").await,
        "only checked"
    );

    let missing = run("migrate", &scenario, &words(&[&STOP, &pairs[..2], &["--no-createdb"]]));
    missing.wait(RUN).await.expect_code(1);
    let half =
        run("migrate", &scenario, &words(&[&STOP, &streamed, &pairs])).wait(RUN).await.expect_code(1).json();
    assert_eq!(database(&half, "one")["status"], "done", "{half}");
    assert_eq!(database(&half, "two:odd")["status"], "failed", "{half}");
    assert!(!target.holds("SELECT count(*) > 0 FROM pg_database WHERE datname = 'second'").await);
    let alone = run("migrate", &scenario, &words(&[&STOP, &streamed, &pairs[2..]])).wait(RUN).await;
    alone.expect_code(3);
    // Left out, what cannot be moved keeps nobody from being complete.
    let rest = run("migrate", &scenario, &words(&[&STOP, &pairs[..2]])).wait(RUN).await.expect_code(0).json();
    assert_eq!(names(&rest), ["one"], "{rest}");
    assert_same(&scenario, "one", "new").await;
    assert!(!side(target, "new").holds(STATE).await);
    let left = ["--exclude-db", "one,\"two:odd\""];
    let rest = run("migrate", &scenario, &words(&[&STOP, &left])).wait(RUN).await.expect_code(0).json();
    assert_eq!(names(&rest), [source.dbname.as_str()], "{rest}");
}

#[tokio::test]
async fn an_interrupt_drains_every_database_and_the_same_command_goes_on() {
    let scenario = Scenario::own("first").await;
    let Scenario { source, target } = &scenario;
    source.cluster.create_database("second").await.unwrap();
    let sides = [source.clone(), side(source, "second")];
    for source in &sides {
        source.execute(PLAIN).await;
    }
    // One copy connection and one for builds, for both.
    let engine = run("migrate", &scenario, &["-j", "1", "--index-jobs", "1", "-v"]);
    for source in &sides {
        let target = side(target, &source.dbname);
        let following = "SELECT phase = 'following' FROM pgstream.migration";
        eventually("it follows", async || target.holds(following).await).await;
        source.execute("INSERT INTO orders (v) VALUES ('while it follows')").await;
        let there = "SELECT count(*) = 501 FROM public.orders";
        eventually("the change arrives", async || target.holds(there).await).await;
    }
    engine.interrupt().await;
    let ended = engine.wait(RUN).await.expect_code(0).json();
    assert_eq!(ended["status"], "running", "{ended}");
    assert_eq!(source.slots().await, 2);

    for source in &sides {
        source.execute("DELETE FROM orders WHERE id <= 10").await;
    }
    let done = run("migrate", &scenario, &STOP).wait(RUN).await.expect_code(0).json();
    assert_eq!(done["status"], "done", "{done}");
    for source in &sides {
        assert_same(&scenario, &source.dbname, &source.dbname).await;
    }
    assert_eq!(source.slots().await, 0);
}

#[tokio::test]
async fn pg_migrate_means_what_it_does_elsewhere() {
    let scenario = Scenario::own("shop").await;
    let Scenario { source, target } = &scenario;
    source.execute(PLAIN).await;
    source.execute("CREATE ROLE kept; CREATE ROLE left_behind").await;
    source.cluster.create_database("unwanted").await.unwrap();
    let report = tempfile::tempdir().unwrap();
    let report = report.path().join("report.json");
    let pg_migrate = |words: &[&str]| {
        let mut command = Engine::command();
        command.env("SOURCE_SERVICE_URI", source.dsn()).env("TARGET_SERVICE_URI", target.dsn());
        // The variables win: nobody answers there.
        command.args(["pg_migrate", "--json", "-s", "host=nowhere.invalid", "-t", "host=nowhere.invalid"]);
        command.args(words);
        Engine::spawn(command)
    };
    let filter = ["-f", "unwanted", "-xr", "left_behind,nobody", "--mangle"];
    let valid = pg_migrate(&words(&[&filter, &["--validate"]])).wait(RUN).await.expect_code(0).json();
    assert_eq!(valid["ok"], true, "{valid}");
    assert!(!target.holds("SELECT count(*) > 0 FROM public.orders").await, "only checked");
    pg_migrate(&["--stop-replication"]).wait(RUN).await.expect_code(2);

    let lag = ["--max-replication-lag", "0"];
    let caught_up = pg_migrate(&words(&[&filter, &lag])).wait(RUN).await.expect_code(0).json();
    assert_eq!(names(&caught_up), [source.dbname.as_str()], "{caught_up}");
    assert_eq!(source.slots().await, 1, "without --stop-replication the slot stays");
    source.execute("UPDATE orders SET v = 'changed' WHERE id < 100").await;
    let file = ["--report-file", report.to_str().unwrap(), "--migration-id", "ab12", "-v"];
    let stop = ["--stop-replication"];
    let done = pg_migrate(&words(&[&filter, &lag, &stop, &file])).wait(RUN).await.expect_code(0).json();
    assert_eq!(done["status"], "done", "{done}");
    assert_same(&scenario, &source.dbname, &source.dbname).await;
    assert!(report.is_file());
    assert_eq!(source.slots().await, 0);
    let roles =
        "SELECT string_agg(rolname, ',') = 'kept' FROM pg_roles WHERE rolname IN ('kept', 'left_behind')";
    assert!(target.holds(roles).await, "{done}");
    assert!(!target.holds("SELECT count(*) > 0 FROM pg_database WHERE datname = 'unwanted'").await);
}

#[tokio::test]
async fn every_form_of_connection_string_leads_to_the_server() {
    let hba = vec!["host all secretive 127.0.0.1/32 scram-sha-256".to_owned()];
    let options = ClusterOptions { hba, ..source_options() };
    let scenario = Scenario::own_with("forms", options, ClusterOptions::default()).await;
    let Scenario { source, target } = &scenario;
    source.execute("CREATE ROLE secretive SUPERUSER LOGIN PASSWORD 'p@ss/w:rd %'").await;
    source.execute(PLAIN).await;
    let (port, dbname) = (source.cluster.port(), &source.dbname);
    let folder = tempfile::tempdir().unwrap();
    let private = |name: &str, text: String| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let passfile = private("passfile", format!("127.0.0.1:{port}:*:secretive:p@ss/w\\:rd %\n"));
    let service = "[moving]\nhost=127.0.0.1\nuser=secretive\npassword=p@ss/w:rd %\n";
    let service = private("services", format!("{service}port={port}\ndbname={dbname}\n"));
    let user = source.cluster.conninfo("x").user;
    let directory = source.cluster.directory().display().to_string();
    let encoded = directory.replace('/', "%2F");
    for dsn in [
        format!("postgres://secretive:p%40ss%2Fw%3Ard%20%25@127.0.0.1:{port}/{dbname}"),
        format!("host=127.0.0.1 port={port} user=secretive password='p@ss/w:rd %' dbname={dbname}"),
        format!("host=127.0.0.1 port={port} user=secretive passfile={passfile} dbname={dbname}"),
        format!("service=moving servicefile={service}"),
        format!("host={directory} port={port} user={user} dbname={dbname}"),
        format!("postgresql://{user}@{encoded}:{port}/{dbname}"),
        // Nobody listens on the first port.
        format!("postgresql://secretive:p%40ss%2Fw%3Ard%20%25@127.0.0.1:1,127.0.0.1:{port}/{dbname}"),
    ] {
        let arguments = ["check", "--json", "--source", &dsn, "--target", &target.dsn()];
        let report = Engine::start(arguments).wait(RUN).await.expect_code(0).json();
        assert_eq!(report["checks"][0]["database"], dbname.as_str(), "{dsn}");
    }
    let wrong = format!("postgres://secretive:guess@127.0.0.1:{port}/{dbname}");
    let refused = Engine::start(["check", "--source", &wrong, "--target", &target.dsn()]).wait(RUN).await;
    assert!(refused.expect_code(1).stderr.contains("password"), "a wrong password is told apart");
}

/// A database to be created is judged as what it will be, not as the one by which the target was asked.
#[tokio::test]
async fn who_may_create_databases_needs_no_rights_in_another() {
    let scenario = Scenario::own("shop").await;
    scenario.source.execute("CREATE EXTENSION hstore; CREATE TABLE t (id int PRIMARY KEY, h hstore)").await;
    let maintenance = scenario.target.cluster.session("postgres").await.unwrap();
    // Its place in the lobby is none of the new database's business.
    let lobby =
        "CREATE SCHEMA elsewhere; CREATE EXTENSION hstore SCHEMA elsewhere; CREATE ROLE mover LOGIN CREATEDB";
    maintenance.batch_execute(lobby).await.unwrap();
    let port = scenario.target.cluster.port();
    let target = format!("host=127.0.0.1 port={port} user=mover dbname=postgres");
    let pair = format!("{}:fresh", scenario.source.dbname);
    let source = nameless(&scenario.source.cluster);
    let words = ["check", "--json", "-s", &source, "-t", &target, "--database", &pair];
    let report = Engine::start(words).wait(RUN).await.expect_code(0).json();
    assert_eq!(report["ok"], true, "{report}");

    maintenance.batch_execute("ALTER ROLE mover NOCREATEDB").await.unwrap();
    let report = Engine::start(words).wait(RUN).await.expect_code(3).json();
    let checks = report["checks"].as_array().unwrap();
    let blocked: Vec<&Value> = checks.iter().filter(|check| check["verdict"] == "block").collect();
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert_eq!(blocked[0]["id"], "target-databases");
    assert_eq!(blocked[0]["fix"], "ALTER ROLE \"mover\" CREATEDB;");
}
