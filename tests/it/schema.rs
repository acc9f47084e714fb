//! Definitions arrive whole, builds are made once, and what does not arrive has a name.
//!
//! Each claim takes empty databases on real servers: `source` and `target` are superusers' and of one major.

use std::process::Command;
use std::time::Duration;

use pgstream::catalog::Owners;
use pgstream::error::{Error, ErrorKind, describe};
use pgstream::pg::{Conninfo, HostName, Identifier, QualifiedName};
use pgstream::schema::{
    Allowance, Archive, Build, BuildForm, BuildKind, BuildSettings, Built, DumpEncoding, DumpId,
    DumpSettings, EventTriggers, FilterSettings, Flush, Plan, PrivateFile, RestoreRun, RestoreSettings,
    RestoreWarning, RestoreWarningKind, Schedule, Schema, Tablespaces, ToastCompression, Tools, announce,
    build, dump_definitions, find_tools, restore, restore_privileges,
};
use pgstream::wire::{Session, SessionSettings};

use crate::support::scenario::{Scenario, Side};

const SETTINGS: FilterSettings =
    FilterSettings { public_schema: Schema::Exists, event_triggers: EventTriggers::Restore };

/// What carrying a database's definitions met.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) built: Vec<Built>,
    pub(crate) warnings: Vec<RestoreWarning>,
    pub(crate) skipped: Vec<String>,
}

/// Carries every definition of `source` into `target`, as a migration does but for the rows.
pub(crate) async fn carry(tools: &Tools, source: &Conninfo, target: &Conninfo, run: RestoreRun) -> Carried {
    let archive = dump(tools, source).await;
    let plan = Plan::new(&archive.toc, SETTINGS);
    let restoring = RestoreSettings {
        run,
        tablespaces: Tablespaces::Default,
        owners: Owners::Kept,
        flush: Flush::WithTheNote,
        lanes: 4,
    };
    let mut carried = Carried::default();
    carried.skipped.extend(plan.skipped.into_iter().map(|skipped| skipped.entry));
    let restored = restore(tools, &archive, target, &plan.pre_data, restoring).await.expect("pre-data");
    carried.warnings.extend(restored.warnings);
    let session = connect(target).await;
    for builds in [plan.builds, plan.foreign_keys] {
        let mut schedule = Schedule::new(builds, |_| None);
        while let Some(next) = schedule.take() {
            carried.built.push(build(&session, &next, &settings(None)).await.expect("a build"));
            schedule.finish(next.id);
        }
        assert_eq!(schedule.left(), 0);
    }
    for ids in [plan.last, plan.armed] {
        let restored = restore(tools, &archive, target, &ids, restoring).await.expect("post-data");
        carried.warnings.extend(restored.warnings);
    }
    carried.warnings =
        restore_privileges(&session, &archive.toc, carried.warnings).await.expect("privileges");
    carried
}

pub(crate) async fn dump(tools: &Tools, source: &Conninfo) -> Archive {
    let settings = DumpSettings {
        lock_wait_timeout: Duration::from_secs(5),
        encoding: DumpEncoding::Utf8,
        toast_compression: ToastCompression::Keep,
        without_schemas: Vec::new(),
    };
    let into = PrivateFile::create_in(&std::env::temp_dir()).expect("a file");
    dump_definitions(tools, source, into, settings).await.expect("a dump")
}

async fn connect(database: &Conninfo) -> Session {
    let settings = SessionSettings { role: "test", extra: Vec::new() };
    Session::connect(database, &settings).await.expect("a session")
}

fn settings(source_search_path: Option<&str>) -> BuildSettings {
    BuildSettings {
        allowance: Some(Allowance { memory_bytes: 64 << 20, parallel_workers: None }),
        source_search_path: source_search_path.map(str::to_owned),
        tablespaces: Tablespaces::Default,
    }
}

/// `pg_dump --schema-only` of a database, without what differs between any two dumps.
pub(crate) fn definitions(tools: &Tools, database: &Conninfo) -> String {
    let mut command = Command::new(&tools.pg_dump);
    command.args(["--schema-only", "--no-publications", "--no-subscriptions", "--exclude-schema=pgstream"]);
    let host = database.hosts.first().expect("a host");
    match &host.name {
        HostName::Tcp(name) => command.env("PGHOST", name),
        HostName::Unix(folder) => command.env("PGHOST", folder),
    };
    command.env("PGPORT", host.port.to_string()).env("PGUSER", &database.user).env_remove("PGOPTIONS");
    command.env("PGDATABASE", database.database());
    if let Some(password) = &database.password {
        command.env("PGPASSWORD", password.reveal());
    }
    let output = command.output().expect("pg_dump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let differs =
        |line: &&str| ["\\restrict", "\\unrestrict", "-- Dumped"].iter().any(|start| line.starts_with(start));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().filter(|line| !differs(line)).collect::<Vec<_>>().join("\n")
}

/// What `pg_dump` says of the target is what it says of the source, at once and after a second run.
pub(crate) async fn definitions_arrive_whole(tools: &Tools, source: &Conninfo, target: &Conninfo) {
    let there = connect(source).await;
    there.batch_execute(include_str!("schema_awkward.sql")).await.expect("the source");
    // So many that several `pg_restore` share them.
    let many = "DO $$ BEGIN FOR n IN 1..120 LOOP
            EXECUTE format('CREATE TABLE public.many_%s (id serial PRIMARY KEY, other int REFERENCES public.many_1)', n);
            EXECUTE format('CREATE VIEW public.above_%s AS SELECT a.id FROM public.many_%s a, public.many_%s b',
                           n, n, greatest(1, n - n % 4));
            EXECUTE format('COMMENT ON VIEW public.above_%s IS %L', n, n);
        END LOOP; END $$";
    there.batch_execute(many).await.expect("many tables");
    let expected = definitions(tools, source);
    for run in [RestoreRun::First, RestoreRun::Resumed] {
        let carried = carry(tools, source, target, run).await;
        assert_eq!(carried.warnings, [], "{run:?}");
        let earlier = carried.built.iter().filter(|built| **built == Built::Earlier).count();
        assert_eq!(earlier > 0, run == RestoreRun::Resumed, "{:?}", carried.built);
        let found = definitions(tools, target);
        for (expected, found) in expected.lines().zip(found.lines()) {
            assert_eq!(expected, found, "{run:?}");
        }
        assert_eq!(expected.lines().count(), found.lines().count(), "{run:?}");
    }
}

/// One role is missing on the target: its grants are named, everybody else's are there.
pub(crate) async fn a_missing_role_costs_only_its_own_grants(
    tools: &Tools,
    source: &Conninfo,
    target: &Conninfo,
) {
    let there = connect(source).await;
    let sql = "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
               REVOKE ALL ON FUNCTION public.f() FROM PUBLIC; \
               CREATE ROLE only_there; CREATE ROLE here_too; \
               GRANT EXECUTE ON FUNCTION public.f() TO only_there; GRANT EXECUTE ON FUNCTION public.f() TO here_too;";
    there.batch_execute(sql).await.expect("the source");
    let here = connect(target).await;
    here.batch_execute("CREATE ROLE here_too").await.expect("a role");
    let carried = carry(tools, source, target, RestoreRun::First).await;
    let [warning] = carried.warnings.as_slice() else { panic!("{carried:?}") };
    assert_eq!(warning.kind, RestoreWarningKind::Privileges);
    assert!(warning.failure.statement.contains("only_there"), "{warning:?}");
    // A function that was never granted on has no list, and everyone may call it.
    let sql = "SELECT string_agg(coalesce(r.rolname, 'PUBLIC'), ' ' ORDER BY r.rolname) \
               FROM pg_proc p CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a \
               LEFT JOIN pg_roles r ON r.oid = a.grantee \
               WHERE p.proname = 'f' AND a.grantee <> p.proowner";
    let row = here.query_one(sql, &[]).await.expect("privileges");
    assert_eq!(row.get::<_, &str>(0), "here_too");
}

/// A table to build on, and two functions of which one finds the other by `search_path` only.
async fn table(target: &Conninfo) -> Session {
    let session = connect(target).await;
    let sql = "CREATE SCHEMA app; CREATE TABLE app.t (a int, b text); \
               INSERT INTO app.t VALUES (1, 'x'), (1, 'y'); \
               CREATE FUNCTION app.inner_fn(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(t)'; \
               CREATE FUNCTION app.outer_fn(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE \
                   AS 'begin return inner_fn(t); end';";
    session.batch_execute(sql).await.expect("a table");
    session
}

fn build_of(name: &str, form: BuildForm, kind: BuildKind, sql: &str) -> Build {
    Build {
        id: DumpId::new(1),
        kind,
        form,
        table: QualifiedName::new("app", "t"),
        name: Identifier::new(name),
        sql: sql.into(),
        tablespace: None,
        depends_on: [].into(),
    }
}

fn unique(column: &str) -> Build {
    let sql = format!("ALTER TABLE ONLY app.t\n    ADD CONSTRAINT t_u UNIQUE ({column});\n");
    build_of("t_u", BuildForm::Constraint, BuildKind::Unique, &sql)
}

fn kind_of(result: Result<Built, Error>) -> (ErrorKind, String) {
    let error = result.expect_err("an error");
    (error.kind(), describe(&error))
}

/// Builds: a duplicate is named, a second build is not made, another's object is not taken for ours.
pub(crate) async fn builds_are_made_once(target: &Conninfo) {
    let session = table(target).await;
    let (kind, text) = kind_of(build(&session, &unique("a"), &settings(None)).await);
    assert_eq!(kind, ErrorKind::Schema);
    assert!(text.contains("Key (a)=(1) is duplicated"), "{text}");
    for expected in [Built::Now, Built::Earlier] {
        let built = build(&session, &unique("b"), &settings(None)).await.expect("a build");
        assert_eq!(built, expected);
    }
    let (kind, text) = kind_of(build(&session, &unique("a"), &settings(None)).await);
    assert_eq!(kind, ErrorKind::Drift);
    assert!(text.contains("UNIQUE (b)"), "{text}");
    let other = connect(target).await;
    let sql = "ALTER TABLE ONLY app.t\n    ADD CONSTRAINT t_x EXCLUDE USING btree (b WITH =);\n";
    let exclusion = build_of("t_x", BuildForm::Constraint, BuildKind::Exclusion, sql);
    let settings = settings(None);
    let both = tokio::join!(build(&session, &exclusion, &settings), build(&other, &exclusion, &settings));
    let mut both = [both.0.expect("a build"), both.1.expect("a build")];
    both.sort_by_key(|built| *built == Built::Earlier);
    assert_eq!(both, [Built::Now, Built::Earlier]);
}

/// An index that a failed CREATE INDEX CONCURRENTLY left behind is built anew.
pub(crate) async fn an_invalid_index_is_built_again(target: &Conninfo) {
    let session = table(target).await;
    let concurrently = "CREATE UNIQUE INDEX CONCURRENTLY t_a ON app.t USING btree (a)";
    session.batch_execute(concurrently).await.expect_err("a duplicate");
    session.batch_execute("DELETE FROM app.t WHERE b = 'y'").await.expect("one row fewer");
    let sql = "CREATE UNIQUE INDEX t_a ON app.t USING btree (a);\n";
    let index = build_of("t_a", BuildForm::Index, BuildKind::Unique, sql);
    assert_eq!(build(&session, &index, &settings(None)).await.expect("a build"), Built::Now);
    assert_eq!(build(&session, &index, &settings(None)).await.expect("a build"), Built::Earlier);
}

/// A function that needs the source's `search_path` is given it for its build alone (P58). From 17 on a server sets it
/// aside while it builds, whoever set it: only the function's own helps, which the error says.
pub(crate) async fn a_build_gets_the_search_path_it_needs(target: &Conninfo) {
    let session = table(target).await;
    let sql = "CREATE INDEX t_f ON app.t USING btree (app.outer_fn(b));\n";
    let index = build_of("t_f", BuildForm::Index, BuildKind::Index, sql);
    let (kind, text) = kind_of(build(&session, &index, &settings(None)).await);
    assert_eq!(kind, ErrorKind::Schema);
    assert!(text.contains("inner_fn(text) does not exist"), "{text}");
    let built = build(&session, &index, &settings(Some("\"$user\", app"))).await;
    if session.version().major() >= 17 {
        let error = built.expect_err("a path that the server passes over");
        assert!(error.advice().is_some_and(|advice| advice.contains("SET search_path")), "{error:?}");
    } else {
        assert_eq!(built.expect("a build"), Built::WithSourceSearchPath);
    }
    let row = session.query_one("SELECT current_schemas(false)::text", &[]).await.expect("a setting");
    assert_eq!(row.get::<_, String>(0), "{}", "it was lent for that build alone");
}

fn foreign_key(table: &str, text: &str) -> Build {
    let sql = format!("ALTER TABLE {text};\n");
    let build = build_of("to_t", BuildForm::Constraint, BuildKind::ForeignKey, &sql);
    Build { table: QualifiedName::new("app", table), ..build }
}

/// A key is there before its rows are looked at, whoever dies in between; and what was never looked at stays so.
pub(crate) async fn foreign_keys_are_made_in_two_steps(target: &Conninfo) {
    let session = connect(target).await;
    let sql = "CREATE SCHEMA app; CREATE TABLE app.t (a int PRIMARY KEY); INSERT INTO app.t VALUES (1); \
               CREATE TABLE app.child (a int); INSERT INTO app.child VALUES (1), (2); \
               CREATE TABLE app.unseen (a int); INSERT INTO app.unseen VALUES (3); \
               CREATE TABLE app.many (a int) PARTITION BY LIST (a); \
               CREATE TABLE app.one PARTITION OF app.many FOR VALUES IN (1); INSERT INTO app.many VALUES (1)";
    session.batch_execute(sql).await.expect("tables");
    let key = "ADD CONSTRAINT to_t FOREIGN KEY (a) REFERENCES app.t(a) ON DELETE CASCADE";
    let child = foreign_key("child", &format!("ONLY app.child\n    {key}"));
    let unseen = foreign_key("unseen", &format!("ONLY app.unseen\n    {key} NOT VALID"));
    let many = foreign_key("many", &format!("app.many\n    {key}"));
    let mut keys = vec![child, unseen];
    let mut expected_at_last = "app.child true, app.unseen false";
    if session.version().major() >= 11 {
        keys.push(many);
        expected_at_last = "app.child true, app.many true, app.unseen false";
    }
    let settings = settings(None);
    let are = async || {
        let sql = "SELECT coalesce(string_agg(conrelid::regclass::text || ' ' || convalidated, ', ' ORDER BY conrelid::regclass::text), '') \
                     FROM pg_constraint WHERE contype = 'f' AND conrelid <> 'app.one'::regclass";
        session.query_one(sql, &[]).await.expect("constraints").get::<_, String>(0)
    };
    for _ in 0..2 {
        announce(&session, &keys, &settings).await.expect("a first step");
        assert_eq!(are().await, "app.child false");
    }
    let (kind, text) = kind_of(build(&session, &keys[0], &settings).await);
    assert_eq!(kind, ErrorKind::Schema);
    assert!(text.contains("Key (a)=(2) is not present"), "{text}");
    session.batch_execute("DELETE FROM app.child WHERE a = 2").await.expect("one row fewer");
    for expected in [Built::Now, Built::Earlier] {
        for key in &keys {
            assert_eq!(build(&session, key, &settings).await.expect("a build"), expected, "{key:?}");
        }
    }
    assert_eq!(are().await, expected_at_last);
}

/// The tools for a server.
pub(crate) async fn tools(database: &Conninfo) -> Tools {
    let version = connect(database).await.version();
    find_tools(None, version, version).await.expect("pg_dump is installed")
}

fn conninfo(side: &Side) -> Conninfo {
    side.cluster.conninfo(&side.dbname)
}

#[tokio::test]
async fn definitions_arrive_whole_at_once_and_again() {
    // Two databases of one server: the roles are there.
    let (one, other) = tokio::join!(Scenario::shared("awkward"), Scenario::shared("awkward"));
    let (source, target) = (conninfo(&one.source), conninfo(&other.source));
    definitions_arrive_whole(&tools(&source).await, &source, &target).await;
}

#[tokio::test]
async fn grants_to_a_missing_role_are_named() {
    let scenario = Scenario::shared("grants").await;
    if scenario.source.major() == scenario.target.major() {
        let (source, target) = (conninfo(&scenario.source), conninfo(&scenario.target));
        a_missing_role_costs_only_its_own_grants(&tools(&source).await, &source, &target).await;
    }
}

#[tokio::test]
async fn a_build_is_made_once_and_not_mistaken() {
    let target = Scenario::shared("builds").await.target;
    builds_are_made_once(&conninfo(&target)).await;
}

#[tokio::test]
async fn a_foreign_key_is_made_first_and_validated_after() {
    let target = Scenario::shared("keys").await.target;
    foreign_keys_are_made_in_two_steps(&conninfo(&target)).await;
}

#[tokio::test]
async fn what_a_failed_build_left_is_replaced() {
    let target = Scenario::shared("invalid").await.target;
    an_invalid_index_is_built_again(&conninfo(&target)).await;
}

#[tokio::test]
async fn the_sources_search_path_is_lent_to_a_build() {
    let target = Scenario::shared("path").await.target;
    a_build_gets_the_search_path_it_needs(&conninfo(&target)).await;
}
