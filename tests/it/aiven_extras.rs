//! A source role that owns nothing and a target role without superuser, helped by aiven_extras.
//!
//! The extension is not to be had everywhere, so functions of its signatures stand in for it: owned by a
//! superuser, SECURITY DEFINER, and members of an extension, so that no dump carries them over.

use crate::support::migration::{CAUGHT_UP, RUN, STOP, in_step, migrate, words};
use crate::support::scenario::Scenario;

/// The extension hands what it made over to whoever called it.
const HANDS_OVER: &str =
    "EXECUTE format('ALTER PUBLICATION %I OWNER TO %I', arg_publication_name, session_user);";

fn stand_in(hand_over: &str) -> String {
    format!(
        "CREATE EXTENSION tsm_system_rows;
         CREATE SCHEMA aiven_extras;
         CREATE FUNCTION aiven_extras.session_replication_role(arg_parameter text) RETURNS text
             LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
             AS $$ SELECT set_config('session_replication_role', arg_parameter, false) $$;
         CREATE FUNCTION aiven_extras.pg_create_publication(
                 arg_publication_name text, arg_publish text, VARIADIC arg_tables text[] DEFAULT '{{}}') RETURNS void
             LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
         DECLARE tables text := (SELECT string_agg((SELECT string_agg(quote_ident(part), '.' ORDER BY at)
                                     FROM unnest(parse_ident(name)) WITH ORDINALITY AS p (part, at)), ', ')
                                   FROM unnest(arg_tables) AS t (name));
         BEGIN
             EXECUTE format('CREATE PUBLICATION %I %s WITH (publish = %L)', arg_publication_name,
                            coalesce('FOR TABLE ' || tables, ''), arg_publish);
             {hand_over}
         END $$;
         GRANT USAGE ON SCHEMA aiven_extras TO PUBLIC;
         ALTER EXTENSION tsm_system_rows ADD SCHEMA aiven_extras;
         ALTER EXTENSION tsm_system_rows ADD FUNCTION aiven_extras.session_replication_role(text);
         ALTER EXTENSION tsm_system_rows ADD FUNCTION aiven_extras.pg_create_publication(text, text, text[]);"
    )
}

/// A parent, a child, and a trigger that would show if it fired twice.
const SHOP: &str = "
    SET ROLE app;
    CREATE SCHEMA shop;
    CREATE TABLE shop.parent (id int PRIMARY KEY, v text);
    CREATE TABLE shop.child (id int PRIMARY KEY, parent int NOT NULL REFERENCES shop.parent ON DELETE CASCADE, v text);
    CREATE TABLE shop.\"It's\" (id int PRIMARY KEY) PARTITION BY LIST (id);
    CREATE TABLE shop.part PARTITION OF shop.\"It's\" DEFAULT;
    CREATE UNLOGGED TABLE shop.cache (id int PRIMARY KEY, parent int REFERENCES shop.parent);
    CREATE FUNCTION shop.count() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.v := coalesce(NEW.v, '') || '!'; RETURN NEW; END $$;
    CREATE TRIGGER fires BEFORE INSERT OR UPDATE ON shop.child FOR EACH ROW EXECUTE FUNCTION shop.count();
    INSERT INTO shop.parent SELECT n, 'p' FROM generate_series(1, 500) n;
    INSERT INTO shop.child SELECT n, 1 + n % 500, 'c' FROM generate_series(1, 2000) n;
    INSERT INTO shop.\"It's\" SELECT generate_series(1, 10);
    INSERT INTO shop.cache SELECT n, n FROM generate_series(1, 5) n;
    RESET ROLE;
    GRANT USAGE ON SCHEMA shop TO mover; GRANT SELECT ON ALL TABLES IN SCHEMA shop TO mover;";

async fn stage(name: &str, hand_over: &str) -> Scenario {
    let scenario = Scenario::own(name).await;
    let Scenario { source, target } = &scenario;
    for side in [source, target] {
        let grants = format!("GRANT CREATE ON DATABASE {} TO app, mover", side.dbname);
        side.execute(&format!("CREATE ROLE app; CREATE ROLE mover LOGIN; {grants}; {}", stand_in(hand_over)))
            .await;
    }
    source.execute(&format!("ALTER ROLE mover REPLICATION; {SHOP}")).await;
    target.execute("GRANT app TO mover").await;
    scenario
}

impl Scenario {
    fn as_mover(&self) -> [String; 2] {
        [&self.source, &self.target].map(|side| side.dsn() + " user=mover")
    }
}

#[tokio::test]
async fn a_role_that_owns_nothing_publishes_and_triggers_stay_quiet() {
    let scenario = stage("extras", HANDS_OVER).await;
    let Scenario { source, target } = &scenario;
    let before = source.footprint().await;
    let [from, to] = scenario.as_mover();

    let mut engine = migrate(&from, &to, &[]);
    engine.wait_for_stderr("\"following\"", RUN).await;
    let owner = "SELECT bool_and(pubowner = 'mover'::regrole AND NOT puballtables) FROM pg_publication";
    assert!(source.value::<bool>(owner).await, "the publication is ours to drop, and lists its tables");
    // What fires is there while changes are applied, as nothing of it fires.
    let armed = "SELECT (SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'shop.child'::regclass) = 1
                    AND (SELECT count(*) FROM pg_trigger WHERE tgname = 'fires') = 1";
    assert!(target.value::<bool>(armed).await, "foreign keys and triggers are armed before the cutover");
    source
        .execute(
            "INSERT INTO shop.parent SELECT n, 'new' FROM generate_series(501, 600) n;
             INSERT INTO shop.child SELECT n, 1 + n % 600, 'new' FROM generate_series(2001, 3000) n;
             UPDATE shop.child SET v = v || '?' WHERE id % 7 = 0;
             DELETE FROM shop.parent WHERE id % 50 = 0;
             INSERT INTO shop.\"It's\" SELECT generate_series(11, 20)",
        )
        .await;
    in_step(&scenario, "writing").await;
    engine.kill().await;
    migrate(&from, &to, &words(&[&CAUGHT_UP])).wait(RUN).await.expect_code(0);
    migrate(&from, &to, &words(&[&STOP])).wait(RUN).await.expect_code(0);
    scenario.assert_source_clean(&before).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_publication_that_would_stay_anothers_is_not_made() {
    let scenario = stage("keeps", "").await;
    let before = scenario.source.footprint().await;
    let [from, to] = scenario.as_mover();
    let outcome = migrate(&from, &to, &words(&[&CAUGHT_UP])).wait(RUN).await;
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("must be owner of publication"), "{}", outcome.stderr);
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_table_that_inherits_and_stays_behind_is_not_published_with_its_parent() {
    let scenario = stage("heirs", HANDS_OVER).await;
    let heir = "SET ROLE app; CREATE TABLE shop.heir (PRIMARY KEY (id)) INHERITS (shop.parent); RESET ROLE;
                GRANT SELECT ON shop.heir TO mover";
    scenario.source.execute(heir).await;
    let before = scenario.source.footprint().await;
    let [from, to] = scenario.as_mover();
    let skip = ["--skip-table", "shop.heir"];
    let outcome = migrate(&from, &to, &words(&[&CAUGHT_UP, &skip])).wait(RUN).await;
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("publish no other tables"), "{}", outcome.stderr);
    scenario.assert_source_clean(&before).await;
    migrate(&from, &to, &words(&[&STOP])).wait(RUN).await.expect_code(0);
    scenario.assert_source_clean(&before).await;
    scenario.assert_moved().await;
}
