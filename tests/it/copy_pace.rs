//! The copy is no faster than it may be: by the operator's word, or for the sake of the source's standbys.

use pgstream::demo::Cluster;

use crate::dump::make_standby;
use crate::metrics::{get, metrics_address};
use crate::support::migration::{CAUGHT_UP, RUN, words};
use crate::support::scenario::{Scenario, Side, source_options};
use crate::support::{PATIENCE, eventually};

/// About 12 MB as COPY data, in many tables and one large one.
const TABLES: &str = "
    CREATE TABLE large (id int PRIMARY KEY, v text);
    ALTER TABLE large ALTER v SET STORAGE EXTERNAL;
    INSERT INTO large SELECT i, repeat(md5(i::text), 250) FROM generate_series(1, 1500) AS i;
    DO $$ BEGIN FOR t IN 1..40 LOOP
        EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, v text)', t);
        EXECUTE format('INSERT INTO small_%s SELECT i, md5(i::text) FROM generate_series(1, 400) AS i', t);
    END LOOP; END $$";

#[tokio::test]
async fn the_copy_keeps_to_the_rate_that_it_is_given() {
    let scenario = Scenario::own("rate").await;
    scenario.source.execute(TABLES).await;
    let quick = ["--metrics-addr", "127.0.0.1:0", "--copy-rate", "4MB", "--copy-jobs", "4"];
    let parts = ["--split-tables-larger-than", "2MB"];
    let mut engine = scenario.migrate(&words(&[&CAUGHT_UP, &quick, &parts]));
    engine.wait_for_stderr("the copy keeps to 4.00 MB a second", PATIENCE).await;
    let address = metrics_address(&engine.stderr_text());
    let (_, metrics) = get(address, "/metrics").expect("metrics are served");
    let limit = format!("pgstream_copy_limit_bytes{{database=\"{}\"}} 4194304", scenario.source.dbname);
    assert!(metrics.contains(&limit), "{metrics}");
    let outcome = engine.wait(RUN).await.expect_code(0);
    // A tenth of a second's worth, and a batch of each connection, come on top.
    let told = outcome.stderr.lines().find(|line| line.contains("copied 41 tables, ")).expect("it says so");
    let rate = told.rsplit_once('(').and_then(|(_, rate)| rate.strip_suffix(" MB/s)")?.parse::<f64>().ok());
    assert!(rate.is_some_and(|rate| rate > 1.0 && rate < 5.0), "{told}");
    scenario.assert_rows_equal().await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}

/// Longer at 5 MB a second than it takes to find out about a standby.
const LONG: &str = "
    CREATE TABLE long (id int PRIMARY KEY, v text);
    ALTER TABLE long ALTER v SET STORAGE EXTERNAL;
    INSERT INTO long SELECT i, repeat(md5(i::text), 250) FROM generate_series(1, 9000) AS i";

#[tokio::test]
async fn a_standby_that_falls_behind_slows_the_copy_down_until_it_is_in_step() {
    let scenario = Scenario::own("lagging").await;
    let source = &scenario.source;
    source.execute(LONG).await;
    let mut options = source_options();
    options.settings.push(("wal_receiver_status_interval".to_owned(), "1s".to_owned()));
    let cluster = Cluster::start(options).await.expect("a third server");
    let standby = Side { cluster, dbname: source.dbname.clone() };
    make_standby(source, &standby).await;
    let metrics = ["--metrics-addr", "127.0.0.1:0"];
    let mut engine = scenario.migrate(&words(&[&["--copy-rate", "5MB", "--copy-jobs", "1"], &metrics]));
    let copies = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'pgstream copy'";
    eventually("rows are copied", async || source.holds(copies).await).await;
    standby.execute_alone("SELECT pg_wal_replay_pause()").await;
    let wal =
        "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20)) FROM generate_series(1, 80)";
    source.execute(wal).await;
    engine.wait_for_stderr("waiting for the source's standbys: ", PATIENCE).await;
    let told = engine.stderr_text();
    assert!(told.contains("and the copy is slowed down to 2.") && told.contains(" MB a second"), "{told}");
    let address = metrics_address(&told);
    let held_up = || {
        let (_, text) = get(address, "/metrics").expect("metrics are served");
        text.lines().any(|line| line.contains("by=\"standbys\"") && line.ends_with(" 1"))
    };
    assert!(held_up());
    standby.execute_alone("SELECT pg_wal_replay_resume()").await;
    engine.wait_for_stderr("going on: no longer waiting for the source's standbys", PATIENCE).await;
    assert!(!held_up());
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
}
