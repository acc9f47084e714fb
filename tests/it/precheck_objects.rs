//! Checks of what a database holds: many objects and one report, each mended, and one report again.

use pgstream::precheck::{Verdict, check};

use crate::precheck::{as_role, conninfo, findings, fix, judged, only, passes};
use crate::support::scenario::Scenario;

/// The first statement of a fix.
fn first_statement(fix: &str) -> String {
    format!("{};", fix.split_once(';').map_or(fix, |(first, _)| first))
}

#[tokio::test]
async fn what_does_not_travel_as_one_would_think_is_told() {
    let scenario = Scenario::shared("hazards").await;
    let (source, target) = (&scenario.source, &scenario.target);
    let session = source.session().await;
    session.batch_execute("SET allow_in_place_tablespaces = on").await.unwrap();
    session.batch_execute("CREATE TABLESPACE it_elsewhere LOCATION ''").await.unwrap();
    let objects = "
        CREATE TABLE watched (id int PRIMARY KEY) TABLESPACE it_elsewhere; INSERT INTO watched VALUES (1);
        CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER always AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION noop();
        ALTER TABLE watched ENABLE ALWAYS TRIGGER always;
        CREATE TABLE checked (id int PRIMARY KEY, n int);
        ALTER TABLE checked ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
        CREATE TABLE booked (id int PRIMARY KEY, during int4range, CONSTRAINT apart EXCLUDE USING gist (during WITH &&));
        CREATE TABLE ranked (id int PRIMARY KEY, pos int, CONSTRAINT one_each UNIQUE (pos) DEFERRABLE);
        CREATE TABLE indexed (id int PRIMARY KEY, v text); CREATE INDEX half ON indexed (v);
        UPDATE pg_catalog.pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass;
        CREATE TABLE refers (id int PRIMARY KEY, what regclass, number oid);
        CREATE FUNCTION helper(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
        CREATE FUNCTION opened(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT helper($1)';
        CREATE FUNCTION closed(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.helper($1)';
        CREATE INDEX by_opened ON indexed (opened(v)); CREATE INDEX by_closed ON indexed (closed(v));
        CREATE TABLE german (id int PRIMARY KEY, v text COLLATE \"de-x-icu\");
        UPDATE pg_catalog.pg_collation SET collversion = 'old' WHERE collname = 'de-x-icu';
        INSERT INTO pg_catalog.pg_seclabel VALUES ('watched'::regclass, 'pg_class'::regclass, 0, 'nobody', 'x');
        UPDATE pg_catalog.pg_extension SET extconfig = ARRAY['watched'::regclass::oid], extcondition = ARRAY['']
            WHERE extname = 'plpgsql'";
    source.execute(objects).await;
    source.execute("ALTER LANGUAGE plpgsql RENAME TO plodd").await;
    target.execute("DELETE FROM pg_catalog.pg_collation WHERE collname = 'de-x-icu'").await;

    let report = scenario.judged().await;
    only(&report, "not-valid", Verdict::Warn, "positive of public.checked");
    let ordering = only(&report, "ordering", Verdict::Warn, "apart of public.booked (exclusion)");
    assert!(ordering.message.contains("one_each of public.ranked (deferrable)"), "{ordering:?}");
    only(&report, "replica-triggers", Verdict::Warn, "always of public.watched");
    let invalid = only(&report, "invalid-indexes", Verdict::Warn, "public.half").clone();
    let references = findings(&report, "object-references");
    assert_eq!(references.len(), 2, "{references:#?}");
    assert!(references[0].message.contains("public.refers.what"), "{references:#?}");
    assert!(references[1].message.contains("public.refers.number"), "{references:#?}");
    let open = only(&report, "search-path", Verdict::Warn, "public.opened(text) (helper)");
    assert!(!open.message.contains("closed"), "{open:?}");
    only(&report, "collations", Verdict::Block, "de-x-icu");
    only(&report, "collation-versions", Verdict::Warn, "de-x-icu");
    only(&report, "tablespaces", Verdict::Warn, "public.watched (it_elsewhere)");
    only(&report, "security-labels", Verdict::Warn, "nobody");
    only(&report, "extension-tables", Verdict::Warn, "public.watched");
    only(&report, "languages", Verdict::Block, "public.noop is written in plodd");

    source.execute(&first_statement(fix(&invalid))).await;
    let mend = "
        ALTER LANGUAGE plodd RENAME TO plpgsql;
        ALTER TABLE checked VALIDATE CONSTRAINT positive; DROP TABLE booked, ranked, refers, german;
        ALTER TABLE watched ENABLE TRIGGER always; ALTER TABLE watched SET TABLESPACE pg_default;
        ALTER FUNCTION opened(text) SET search_path = public;
        DELETE FROM pg_catalog.pg_seclabel;
        UPDATE pg_catalog.pg_extension SET extconfig = NULL, extcondition = NULL WHERE extname = 'plpgsql'";
    source.execute(mend).await;
    source.execute_alone("DROP TABLESPACE it_elsewhere").await;
    let report = scenario.judged().await;
    for id in [
        "not-valid",
        "ordering",
        "replica-triggers",
        "invalid-indexes",
        "object-references",
        "search-path",
        "collations",
        "collation-versions",
        "tablespaces",
        "security-labels",
        "extension-tables",
        "languages",
    ] {
        passes(&report, id);
    }
}

#[tokio::test]
async fn hypertables_block_and_jobs_are_told() {
    let scenario = Scenario::shared("jobs").await;
    let source = &scenario.source;
    // Neither can be had here; what they keep of their own is what the checks look at.
    let objects = "
        CREATE EXTENSION hstore; UPDATE pg_catalog.pg_extension SET extname = 'pg_cron' WHERE extname = 'hstore';
        CREATE EXTENSION citext; UPDATE pg_catalog.pg_extension SET extname = 'timescaledb' WHERE extname = 'citext';
        CREATE SCHEMA cron; CREATE TABLE cron.job (jobid int PRIMARY KEY); INSERT INTO cron.job VALUES (1), (2);
        CREATE SCHEMA _timescaledb_catalog; CREATE TABLE _timescaledb_catalog.hypertable (id int PRIMARY KEY);
        INSERT INTO _timescaledb_catalog.hypertable VALUES (1)";
    source.execute(objects).await;
    let report = scenario.judged().await;
    only(&report, "timescaledb", Verdict::Block, "1 hypertables");
    only(&report, "extension-jobs", Verdict::Warn, "pg_cron has 2 jobs");
    source.execute("DELETE FROM cron.job; DELETE FROM _timescaledb_catalog.hypertable").await;
    let report = scenario.judged().await;
    passes(&report, "timescaledb");
    passes(&report, "extension-jobs");
    // What cannot be counted is not taken for nothing, and ends no snapshot.
    source.execute("DROP TABLE cron.job, _timescaledb_catalog.hypertable").await;
    let report = scenario.judged().await;
    only(&report, "timescaledb", Verdict::Block, "may not count");
    only(&report, "extension-jobs", Verdict::Warn, "pg_cron has jobs");
}

#[tokio::test]
async fn extensions_must_be_creatable_and_in_their_place() {
    let scenario = Scenario::shared("extensions").await;
    let (source, target) = (&scenario.source, &scenario.target);
    source.execute("CREATE EXTENSION hstore; CREATE EXTENSION pg_stat_statements").await;
    let role = format!(
        "CREATE ROLE modest LOGIN; GRANT CREATE ON DATABASE {0} TO modest; CREATE SCHEMA apart; \
         CREATE EXTENSION citext SCHEMA apart",
        target.dbname
    );
    target.execute(&role).await;
    source.execute("CREATE EXTENSION citext").await;
    let modest = as_role(target, "modest");
    let report = judged(&conninfo(source), &modest).await;
    // hstore is trusted (13+).
    let refused = only(&report, "extension-rights", Verdict::Block, "pg_stat_statements");
    assert!(refused.message.contains("ermission denied"), "{refused:?}");
    let misplaced =
        only(&report, "installed-extensions", Verdict::Block, "apart on the target and in public").clone();
    let left = "SELECT count(*) FROM pg_catalog.pg_extension WHERE extname = 'pg_stat_statements'";
    assert_eq!(target.value::<i64>(left).await, 0, "the try is rolled back");

    let statement = fix(refused).split_once(": ").unwrap().1.to_owned();
    target.execute(&statement).await;
    target.execute(fix(&misplaced).split_once(": ").unwrap().1).await;
    let report = judged(&conninfo(source), &modest).await;
    passes(&report, "extension-rights");
    passes(&report, "installed-extensions");
    passes(&scenario.judged().await, "extension-rights");
    target.execute("UPDATE pg_catalog.pg_extension SET extversion = '0.1' WHERE extname = 'citext'").await;
    let older = scenario.judged().await;
    only(&older, "installed-extensions", Verdict::Warn, "0.1 on the target");
}

#[tokio::test]
async fn what_a_plain_role_cannot_carry_is_told() {
    let scenario = Scenario::shared("plain").await;
    let (source, target) = (&scenario.source, &scenario.target);
    let objects = "
        CREATE ROLE plain LOGIN; CREATE ROLE mighty LOGIN REPLICATION;
        CREATE TABLE held (id int PRIMARY KEY); ALTER TABLE held OWNER TO mighty;
        CREATE TYPE odd; CREATE FUNCTION odd_in(cstring) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
        CREATE FUNCTION odd_out(odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
        CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, INTERNALLENGTH = 4, PASSEDBYVALUE);
        CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER ddl ON ddl_command_end EXECUTE FUNCTION on_ddl();
        SELECT lo_create(4711)";
    source.execute(objects).await;
    target.execute("CREATE ROLE plain LOGIN").await;
    let (from, to) = (as_role(source, "plain"), as_role(target, "plain"));
    let report = judged(&from, &to).await;
    let objects = only(&report, "superuser-objects", Verdict::Block, "type public.odd");
    assert!(objects.message.contains("function public.odd_in"), "{objects:?}");
    only(&report, "event-triggers", Verdict::Warn, "ddl");
    only(&report, "role-attributes", Verdict::Warn, "mighty (REPLICATION)");
    only(&report, "passwords", Verdict::Warn, "roles that may log in");
    only(&report, "large-object-rights", Verdict::Block, "1 large objects");
    assert!(findings(&report, "publication-right").len() == 2, "{report}");

    // A function of a superuser's publishes for those who may not (P05).
    let extras = "
        CREATE SCHEMA aiven_extras; GRANT USAGE ON SCHEMA aiven_extras TO plain;
        CREATE FUNCTION aiven_extras.pg_create_publication(text, text, VARIADIC text[]) RETURNS void
            LANGUAGE sql AS 'SELECT';
        GRANT SELECT ON LARGE OBJECT 4711 TO plain";
    source.execute(extras).await;
    let report = judged(&from, &to).await;
    passes(&report, "publication-right");
    passes(&report, "large-object-rights");

    let report = scenario.judged().await;
    for id in [
        "superuser-objects",
        "event-triggers",
        "role-attributes",
        "passwords",
        "large-object-rights",
        "publication-right",
    ] {
        passes(&report, id);
    }
    source.execute("DROP EVENT TRIGGER ddl").await;
}

#[tokio::test]
async fn sizes_are_held_against_what_the_operator_says() {
    use pgstream::catalog::Filters;
    use pgstream::precheck::{CheckChoice, CheckOptions};
    let scenario = Scenario::shared("sizes").await;
    let (source, target) = (&scenario.source, &scenario.target);
    let tables = "CREATE TABLE large (id int PRIMARY KEY, v text); CREATE TABLE small (id int PRIMARY KEY);
        INSERT INTO large SELECT g, repeat('x', 1000) FROM generate_series(1, 4000) g";
    source.execute(tables).await;
    let with = async |choice: CheckChoice, skip: &[&str]| {
        let skip_tables = skip.iter().map(|name| name.parse().unwrap()).collect();
        let filters = Filters { skip_tables, ..Filters::default() };
        let options = CheckOptions { choice, filters, ..CheckOptions::default() };
        check(&conninfo(source), &conninfo(target), &options).await.unwrap()
    };
    let megabytes = |count: u64| CheckChoice {
        target_free_bytes: Some(count << 20),
        total_bytes_max: Some(count << 20),
        ..CheckChoice::default()
    };
    let report = with(megabytes(2), &[]).await;
    only(&report, "source-size", Verdict::Block, "--dbs-max-total-size");
    only(&report, "target-disk", Verdict::Block, "2048 kB free");
    // What is left behind does not count.
    let report = with(megabytes(2), &["large"]).await;
    passes(&report, "source-size");
    passes(&report, "target-disk");
    let report = with(megabytes(1000), &[]).await;
    passes(&report, "source-size");
    passes(&report, "target-disk");
    let report = with(CheckChoice::default(), &[]).await;
    only(&report, "target-disk", Verdict::Unknown, "No SQL tells");
    assert!(report.ok && findings(&report, "source-size").is_empty(), "{report}");
}
