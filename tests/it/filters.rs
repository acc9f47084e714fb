//! What is chosen arrives, what is left out does not, and what a choice cuts through is said before.

use pgstream::catalog::{ExtensionRows, Filters};
use pgstream::error::describe;
use pgstream::precheck::{CheckOptions, Outcome, Verdict, check};

use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, RUN, STOP, words};
use crate::support::scenario::{Scenario, Side};

impl Scenario {
    /// What `check` finds of that id, other than that all is well.
    async fn findings(&self, id: &str, filters: &Filters) -> Vec<Outcome> {
        let conninfo = |side: &Side| side.cluster.conninfo(&side.dbname);
        let options = CheckOptions { filters: filters.clone(), ..CheckOptions::default() };
        let report = check(&conninfo(&self.source), &conninfo(&self.target), &options)
            .await
            .unwrap_or_else(|error| panic!("{}", describe(&error)));
        report.checks.into_iter().filter(|one| one.id == id && one.verdict != Verdict::Pass).collect()
    }

    /// Asserts that a check says each of these, all with that verdict; nothing where there are none.
    async fn assert_found(&self, id: &str, filters: &Filters, verdict: Verdict, all: &[&str]) {
        let found = self.findings(id, filters).await;
        let said: String = found.iter().map(|one| one.message.as_str()).collect::<Vec<_>>().join("\n");
        assert!(all.is_empty() == found.is_empty(), "{found:#?}");
        assert!(found.iter().all(|one| one.verdict == verdict), "{found:#?}");
        for one in all {
            assert!(said.contains(one), "{one:?} is not in {said}");
        }
    }
}

fn excluding(schemas: &[&str]) -> Filters {
    let exclude_schemas = schemas.iter().map(|schema| schema.parse().unwrap()).collect();
    Filters { exclude_schemas, ..Filters::default() }
}

fn without(extensions: &[&str]) -> Filters {
    let excluded_extensions = extensions.iter().map(|name| name.parse().unwrap()).collect();
    Filters { excluded_extensions, ..Filters::default() }
}

const SCHEMAS: &str = "
    CREATE SCHEMA app; CREATE SCHEMA \"Old \"\"x\"\"\";
    CREATE TABLE app.t (id serial PRIMARY KEY, v text); INSERT INTO app.t (v) VALUES ('a'), ('b');
    CREATE TABLE \"Old \"\"x\"\"\".t (id serial PRIMARY KEY REFERENCES app.t); INSERT INTO \"Old \"\"x\"\"\".t VALUES (1);
    CREATE MATERIALIZED VIEW \"Old \"\"x\"\"\".m AS SELECT * FROM app.t;
    CREATE EXTENSION hstore SCHEMA \"Old \"\"x\"\"\";
    COMMENT ON SCHEMA \"Old \"\"x\"\"\" IS 'left'";

#[tokio::test]
async fn a_schema_is_left_out_with_all_that_is_in_it() {
    let scenario = Scenario::own("schemas").await;
    let Scenario { source, target } = &scenario;
    source.execute(SCHEMAS).await;
    let before = source.footprint().await;
    let filters = ["--exclude-schema", "\"Old \"\"x\"\"\""];
    scenario.migrate(&words(&[&CAUGHT_UP, &filters])).wait(RUN).await.expect_code(0);
    source.execute("INSERT INTO app.t (v) VALUES ('c')").await;
    scenario.stop_replication(&filters).await;
    scenario.assert_source_clean(&before).await;
    let schemas = "SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
    assert_eq!(target.value::<String>(schemas).await, "app,public");
    assert_eq!(target.value::<String>("SELECT string_agg(v, ',' ORDER BY id) FROM app.t").await, "a,b,c");
    assert_eq!(target.value::<i64>("SELECT nextval('app.t_id_seq')").await, 4);
    assert_eq!(target.value::<i64>("SELECT count(*) FROM pg_extension WHERE extname = 'hstore'").await, 0);
}

#[tokio::test]
async fn schemas_that_are_included_leave_out_all_others() {
    let scenario = Scenario::own("included").await;
    let Scenario { source, target } = &scenario;
    source.execute(SCHEMAS).await;
    source.execute("CREATE TABLE public.other (id int PRIMARY KEY)").await;
    scenario.stop_replication(&["--include-schema", "APP"]).await;
    let tables = "SELECT string_agg(c.oid::regclass::text, ',') FROM pg_class AS c
        WHERE relkind IN ('r', 'm') AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
          AND relnamespace::regnamespace::text <> 'pg_toast'";
    assert_eq!(target.value::<String>(tables).await, "app.t");
}

#[tokio::test]
async fn a_choice_lasts_as_long_as_its_migration() {
    let scenario = Scenario::own("lasting").await;
    let Scenario { source, target } = &scenario;
    source.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)").await;
    scenario.migrate(&words(&[&CAUGHT_UP, &["--skip-table", "a,b"]])).wait(RUN).await.expect_code(0);
    for other in [&["--skip-table", "a"][..], &[], &["--skip-table", "a,b", "--no-owner"]] {
        let outcome = scenario.migrate(&words(&[&STOP, other])).wait(RUN).await.expect_code(2);
        assert!(
            outcome.stderr.contains("was a,b and is") || outcome.stderr.contains("--no-owner was not given"),
            "{}",
            outcome.stderr
        );
    }
    assert_eq!(source.slots().await, 1, "the migration can go on");
    scenario.stop_replication(&["--skip-table", "b", "--skip-table", "a"]).await;
    assert_eq!(target.value::<i64>("SELECT count(*) FROM b").await, 0);
}

/// Before anything is carried, another choice may mend what a first one ran into: not even a lock is taken in
/// a schema that is left out.
#[tokio::test]
async fn a_choice_may_change_before_anything_is_carried() {
    let scenario = Scenario::own("changing").await;
    let Scenario { source, target } = &scenario;
    source.execute("CREATE SCHEMA busy; CREATE TABLE busy.t (id int PRIMARY KEY); CREATE TABLE a (id int PRIMARY KEY)").await;
    let lock = source.hold("LOCK TABLE busy.t IN ACCESS EXCLUSIVE MODE").await;
    scenario.migrate(&words(&[&STOP, &["--lock-timeout", "100ms"]])).wait(RUN).await.expect_code(1);
    assert_eq!(target.value::<i64>("SELECT count(*) FROM pgstream.migration").await, 1);
    let engine = scenario.migrate(&words(&[&STOP, &["--exclude-schema", "busy"]]));
    eventually("definitions are carried", async || {
        target.holds("SELECT phase <> 'planned' FROM pgstream.migration").await
    })
    .await;
    // It counts as a writer, for which the slot would wait.
    lock.release().await;
    engine.wait(RUN).await.expect_code(0);
    assert_eq!(target.value::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'busy'").await, 0);
}

#[tokio::test]
async fn rows_of_tables_not_named_stay_behind() {
    let scenario = Scenario::own("with").await;
    let Scenario { source, target } = &scenario;
    source
        .execute(
            "CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1);
             CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
             CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
             CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
             INSERT INTO part VALUES (1, 1), (11, 1);
             CREATE TABLE \"Left\" (id int PRIMARY KEY); INSERT INTO \"Left\" VALUES (1);
             CREATE UNLOGGED TABLE cache (id int PRIMARY KEY); INSERT INTO cache VALUES (1);
             CREATE TABLE keyless (v int); INSERT INTO keyless VALUES (1)",
        )
        .await;
    let before = source.footprint().await;
    let filters = ["--with-table", "kept", "--with-table", "public.PART"];
    scenario.migrate(&words(&[&CAUGHT_UP, &filters])).wait(RUN).await.expect_code(0);
    source.execute("INSERT INTO kept VALUES (2); UPDATE part SET v = 2; INSERT INTO \"Left\" VALUES (2); UPDATE keyless SET v = 2").await;
    let outcome = scenario.stop_replication(&filters).await;
    assert!(outcome.stdout.contains(r#"public.\"Left\": the definition is carried"#), "{}", outcome.stdout);
    scenario.assert_source_clean(&before).await;
    scenario.assert_same_schema().await;
    let counts = "SELECT concat_ws(',', (SELECT count(*) FROM kept), (SELECT sum(v) FROM part),
        (SELECT count(*) FROM \"Left\"), (SELECT count(*) FROM cache), (SELECT count(*) FROM keyless))";
    assert_eq!(target.value::<String>(counts).await, "2,4,0,0,0");
}

#[tokio::test]
async fn a_selector_that_names_nothing_is_bad_usage() {
    let scenario = Scenario::shared("nothing").await;
    scenario.source.execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    for wrong in [
        &["--skip-table", "u"][..],
        &["--with-table", "elsewhere.public.t"],
        &["--exclude-schema", "\"Public\""],
        &["--include-schema", "app*"],
        &["--excluded-extensions", "postgis"],
    ] {
        let outcome = scenario.migrate(&words(&[&STOP, wrong])).wait(RUN).await.expect_code(2);
        assert!(
            outcome.stderr.contains(&format!("that matches {} of {}", wrong[1], wrong[0])),
            "{}",
            outcome.stderr
        );
    }
    assert_eq!(
        scenario.target.value::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgstream'").await,
        0
    );
    scenario.stop_replication(&["--with-table", &format!("{}.public.t", scenario.source.dbname)]).await;
}

#[tokio::test]
async fn what_a_schema_is_needed_for_blocks() {
    let scenario = Scenario::shared("cut_schema").await;
    scenario
        .source
        .execute(
            "CREATE SCHEMA lib; CREATE SCHEMA app; CREATE SCHEMA apart;
             CREATE TYPE lib.mood AS ENUM ('good'); CREATE TYPE lib.pair AS (a int, b int);
             CREATE DOMAIN lib.age AS int CHECK (VALUE > 0); CREATE SEQUENCE lib.ids;
             CREATE TABLE lib.t (id int PRIMARY KEY, v text);
             CREATE INDEX ON lib.t (v); CREATE VIEW lib.v AS SELECT * FROM lib.t;
             CREATE FUNCTION lib.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER own BEFORE INSERT ON lib.t FOR EACH ROW EXECUTE FUNCTION lib.f();
             CREATE FUNCTION lib.low(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
             CREATE TABLE app.moods (id int PRIMARY KEY, m lib.mood);
             CREATE TABLE app.pairs (id int PRIMARY KEY, p lib.pair[]);
             CREATE TABLE app.ages (id int PRIMARY KEY, a lib.age);
             CREATE TABLE app.ids (id int PRIMARY KEY DEFAULT nextval('lib.ids'));
             CREATE TABLE app.child (PRIMARY KEY (id)) INHERITS (lib.t);
             CREATE TABLE app.child_rows (r lib.t);
             CREATE TABLE app.fk (id int PRIMARY KEY REFERENCES lib.t);
             CREATE TABLE app.sound (id int PRIMARY KEY, v text);
             CREATE INDEX by_low ON app.sound (lib.low(v));
             CREATE TRIGGER fires BEFORE INSERT ON app.sound FOR EACH ROW EXECUTE FUNCTION lib.f();
             CREATE VIEW app.v AS SELECT * FROM lib.v;
             CREATE FUNCTION app.g(lib.mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE POLICY p ON app.sound USING (lib.low(v) = v);
             CREATE TABLE apart.t (id int PRIMARY KEY)",
        )
        .await;
    let all = [
        "table app.moods",
        "table app.pairs",
        "table app.ages",
        "table app.ids",
        "table app.child",
        "table app.child_rows",
        "index app.by_low",
        "trigger fires on table app.sound",
        "view app.v",
        "function app.g(lib.mood)",
        "policy p on table app.sound",
    ];
    let found = |filters: Filters, all: Vec<&'static str>| {
        let scenario = &scenario;
        async move { scenario.assert_found("left-out-schemas", &filters, Verdict::Block, &all).await }
    };
    found(excluding(&["lib"]), all.to_vec()).await;
    let said = scenario.findings("left-out-schemas", &excluding(&["lib"])).await;
    let said: String = said.into_iter().map(|one| one.message).collect();
    assert!(!said.contains("trigger own") && !said.contains("moved, table app.sound"), "{said}");
    let keys = scenario.findings("foreign-keys", &excluding(&["lib"])).await;
    assert!(keys.len() == 1 && keys[0].message.contains("app.fk refers to lib.t"), "{keys:?}");
    for sound in [excluding(&["lib", "app"]), excluding(&["app"]), excluding(&["apart"]), Filters::default()]
    {
        found(sound.clone(), vec![]).await;
        assert!(scenario.findings("foreign-keys", &sound).await.is_empty(), "{sound:?}");
    }
    let outcome =
        scenario.migrate(&words(&[&STOP, &["--exclude-schema", "lib"]])).wait(RUN).await.expect_code(3);
    assert!(outcome.stderr.contains("left-out-schemas"), "{}", outcome.stderr);
}

#[tokio::test]
async fn what_shows_rows_left_behind_is_said() {
    let scenario = Scenario::shared("cut_rows").await;
    scenario
        .source
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);
             CREATE VIEW v AS SELECT * FROM t; CREATE MATERIALIZED VIEW m AS SELECT * FROM v;
             CREATE VIEW w AS SELECT * FROM u;
             CREATE TABLE top (id int PRIMARY KEY); CREATE TABLE below (PRIMARY KEY (id)) INHERITS (top)",
        )
        .await;
    let skipping = |table: &str| Filters { skip_tables: vec![table.parse().unwrap()], ..Filters::default() };
    let check = "views-of-skipped";
    scenario
        .assert_found(check, &skipping("t"), Verdict::Warn, &["materialized view public.m, view public.v"])
        .await;
    let gap = "public.top is moved without public.below";
    scenario.assert_found(check, &skipping("below"), Verdict::Warn, &[gap]).await;
    scenario.assert_found(check, &skipping("top"), Verdict::Warn, &[]).await;
    scenario.assert_found(check, &Filters::default(), Verdict::Warn, &[]).await;
}

#[tokio::test]
async fn an_extension_is_left_out_with_what_needs_it_but_never_a_table() {
    let scenario = Scenario::own("extensions").await;
    let Scenario { source, target } = &scenario;
    source
        .execute(
            "CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore; CREATE EXTENSION cube; CREATE EXTENSION earthdistance;
             CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');
             CREATE INDEX by_trigram ON t USING gin (v gin_trgm_ops);
             COMMENT ON INDEX by_trigram IS 'gone';
             CREATE VIEW alike AS SELECT similarity(v, 'b') FROM t; CREATE VIEW over AS SELECT * FROM alike;
             CREATE INDEX plain ON t (v);
             CREATE TABLE h (id int PRIMARY KEY, v hstore[]);
             CREATE DOMAIN place AS cube; CREATE TABLE places (id int PRIMARY KEY, p place)",
        )
        .await;
    let check = "left-out-extensions";
    let others = ["index by_trigram", "view alike", "view over"];
    let others: Vec<String> = others.iter().map(|name| name.replacen(' ', " public.", 1)).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    scenario.assert_found(check, &without(&["pg_trgm"]), Verdict::Warn, &others).await;
    scenario.assert_found(check, &without(&["hstore"]), Verdict::Block, &["table public.h "]).await;
    let found = scenario.findings(check, &without(&["cube"])).await;
    let said = |verdict, words| found.iter().any(|one| one.verdict == verdict && one.message.contains(words));
    assert!(said(Verdict::Warn, "Extension earthdistance needs cube"), "{found:#?}");
    assert!(said(Verdict::Block, "table public.places"), "{found:#?}");
    scenario.assert_found(check, &Filters::default(), Verdict::Warn, &[]).await;

    let outcome = scenario.stop_replication(&["--excluded-extensions", "pg_trgm"]).await;
    assert!(outcome.stdout.contains("VIEW public.alike: not carried over"), "{}", outcome.stdout);
    let there = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class
        WHERE relname IN ('t', 'by_trigram', 'alike', 'over', 'plain', 'h', 'places', 't_pkey')";
    assert_eq!(target.value::<String>(there).await, "h,places,plain,t,t_pkey");
    assert_eq!(target.value::<i64>("SELECT count(*) FROM t").await, 1);
    let extensions = "SELECT string_agg(extname, ',' ORDER BY extname) FROM pg_extension";
    assert_eq!(target.value::<String>(extensions).await, "cube,earthdistance,hstore,plpgsql");
}

/// Gives hstore tables and a sequence of its own, as the script of an extension would.
const CONFIGURED: &str = "
    CREATE EXTENSION hstore;
    CREATE TABLE settings (id int PRIMARY KEY, v text, own boolean);
    CREATE TABLE notes (v text, setting int REFERENCES settings);
    CREATE SEQUENCE numbers;
    CREATE TABLE internal (id int PRIMARY KEY);
    ALTER EXTENSION hstore ADD TABLE settings; ALTER EXTENSION hstore ADD TABLE notes;
    ALTER EXTENSION hstore ADD SEQUENCE numbers; ALTER EXTENSION hstore ADD TABLE internal;
    UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass, 'notes'::regclass, 'numbers'::regclass]::oid[],
                            extcondition = ARRAY['WHERE NOT own', '', '']
     WHERE extname = 'hstore';
    INSERT INTO settings VALUES (1, 'shipped', true), (2, 'shipped', true), (3, 'shipped', true);
    INSERT INTO internal VALUES (1)";

const USERS: &str = "
    INSERT INTO settings VALUES (10, E'tab\\there', false), (11, NULL, false);
    UPDATE settings SET v = 'changed', own = false WHERE id = 2;
    UPDATE settings SET v = 'newer script' WHERE id = 3;
    INSERT INTO notes VALUES ('a', 10), ('b', 2); SELECT nextval('numbers'), nextval('numbers');
    INSERT INTO internal VALUES (2);
    CREATE TABLE t (id int PRIMARY KEY)";

const SETTINGS: &str = "SELECT string_agg(concat_ws(':', id, v, own), ' ' ORDER BY id) FROM settings";

#[tokio::test]
async fn what_users_put_into_an_extension_arrives() {
    let scenario = Scenario::own("configured").await;
    let Scenario { source, target } = &scenario;
    source.execute(CONFIGURED).await;
    source.execute(USERS).await;
    target.execute(CONFIGURED).await;
    let before = source.footprint().await;
    let check = "extension-tables";
    scenario
        .assert_found(
            check,
            &Filters::default(),
            Verdict::Warn,
            &["public.settings, public.notes, public.numbers"],
        )
        .await;
    scenario.migrate(&CAUGHT_UP).wait(RUN).await.expect_code(0);
    assert_eq!(target.value::<i64>("SELECT count(*) FROM notes").await, 2, "copied before the tables, too");
    source
        .execute("DELETE FROM settings WHERE id = 11; INSERT INTO settings VALUES (12, 'late', false)")
        .await;
    scenario.stop_replication(&[]).await;
    scenario.assert_source_clean(&before).await;
    assert_eq!(
        target.value::<String>(SETTINGS).await,
        "1:shipped:t 2:changed:f 3:shipped:t 10:tab\there:f 12:late:f"
    );
    assert_eq!(target.value::<String>("SELECT string_agg(v, '' ORDER BY v) FROM notes").await, "ab");
    assert_eq!(target.value::<i64>("SELECT nextval('numbers')").await, 3);
    assert_eq!(target.value::<i64>("SELECT count(*) FROM internal").await, 1, "the extension's own affair");
}

#[tokio::test]
async fn what_users_put_into_an_extension_stays_behind_if_so_chosen() {
    let scenario = Scenario::own("unconfigured").await;
    let Scenario { source, target } = &scenario;
    source.execute(CONFIGURED).await;
    source.execute(USERS).await;
    target.execute(CONFIGURED).await;
    let filters = Filters { extension_rows: ExtensionRows::LeftOut, ..Filters::default() };
    scenario.assert_found("extension-tables", &filters, Verdict::Warn, &["stays behind"]).await;
    scenario.stop_replication(&["--no-replicate-extension-tables"]).await;
    assert_eq!(target.value::<String>(SETTINGS).await, "1:shipped:t 2:shipped:t 3:shipped:t");
}

/// Providers own their extensions' tables. What cannot be written there is named, and the rest is moved.
#[tokio::test]
async fn an_extension_that_is_not_ours_to_write_is_named() {
    let scenario = Scenario::own("provided").await;
    let Scenario { source, target } = &scenario;
    source.execute(CONFIGURED).await;
    source.execute(USERS).await;
    target.execute(CONFIGURED).await;
    target.execute_alone("CREATE ROLE mover LOGIN").await;
    target.execute_alone(&format!("ALTER DATABASE {} OWNER TO mover", target.dbname)).await;
    target
        .execute("GRANT ALL ON SCHEMA public TO mover; GRANT SELECT ON ALL TABLES IN SCHEMA public TO mover")
        .await;
    let as_mover = format!("{} user=mover", target.dsn());
    let outcome =
        crate::support::migration::migrate(&source.dsn(), &as_mover, &STOP).wait(RUN).await.expect_code(0);
    assert!(
        outcome.stdout.contains("extension hstore: what users put into public.settings"),
        "{}",
        outcome.stdout
    );
    assert!(target.holds("SELECT to_regclass('public.t') IS NOT NULL").await);
}

#[tokio::test]
async fn owners_may_be_left_to_the_target_while_grants_are_kept() {
    let scenario = Scenario::own("owners").await;
    let Scenario { source, target } = &scenario;
    source.execute_alone("CREATE ROLE alice").await;
    for side in [source, target] {
        side.execute_alone("CREATE ROLE reader").await;
    }
    source
        .execute(
            "CREATE SCHEMA app AUTHORIZATION alice; CREATE TABLE app.t (id int PRIMARY KEY);
             ALTER TABLE app.t OWNER TO alice; GRANT SELECT ON app.t TO reader; INSERT INTO app.t VALUES (1)",
        )
        .await;
    scenario.stop_replication(&["--no-owner"]).await;
    let owner = "SELECT bool_and(owner = current_user::regrole) FROM
        (SELECT relowner::regrole FROM pg_class WHERE oid = 'app.t'::regclass
         UNION ALL SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'app') AS o(owner)";
    assert!(target.value::<bool>(owner).await);
    assert!(target.value::<bool>("SELECT has_table_privilege('reader', 'app.t', 'SELECT')").await);
}
