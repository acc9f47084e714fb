//! What command lines are read as.

use super::*;
use crate::error::{ErrorKind, describe};
use clap::CommandFactory as _;

fn read(line: &str) -> Result<Parsed, Error> {
    Args::read(["pgstream"].into_iter().chain(line.split_whitespace()).map(OsString::from))
}

fn migrate(line: &str) -> MigrateArgs {
    match read(&format!("migrate {line}")) {
        Ok(Parsed::Run(Args { command: Command::Migrate(args) })) => *args,
        other => panic!("{other:?}"),
    }
}

/// What is wrong with the line.
fn misuse(line: &str) -> String {
    let error = read(line).expect_err(line);
    assert_eq!(error.kind(), ErrorKind::Usage);
    describe(&error).strip_prefix("read the command line: ").unwrap().to_owned()
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn every_flag_of_migrate_is_read() {
    let args = migrate(
        "-s a -t b --method dump --replica-identity full --insert-only x,y --insert-only z --skip-table w \
         --stop-replication --max-replication-lag 16MB -j 3 --index-jobs 2 \
         --split-tables-larger-than 2GB --snapshot-max-age 6h --lock-timeout 5s --slot-wait 1h --status-interval 500ms \
         --skip-db-version-check --target-free-bytes 1TB --dbs-max-total-size -1 --trial-restore \
         --pgbin /opt/bin --work-dir /spool --metrics-addr [::1]:9187 --json -vv --log-format json",
    );
    assert_eq!(args.servers.source, Some(Secret::new("a")));
    assert_eq!(args.servers.target, Some(Secret::new("b")));
    assert_eq!(args.method, MethodArg::Dump);
    assert_eq!(args.identity.replica_identity, Some(ReplicaIdentity::Full));
    assert_eq!(args.identity.insert_only.len(), 2);
    assert_eq!(args.filters.skip_table, [TableList(vec!["w".to_owned()])]);
    assert!(args.checks.skip_db_version_check && args.checks.trial_restore);
    assert_eq!(args.checks.target_free_bytes, Some(1 << 40));
    assert_eq!(args.checks.dbs_max_total_size, Some(Limit(None)));
    assert!(args.ending.stop_replication && args.ending.until.is_none());
    assert_eq!(args.ending.max_replication_lag, Some(16 << 20));
    assert_eq!(args.pace.copy_jobs.map(NonZeroUsize::get), Some(3));
    assert_eq!(args.pace.index_jobs.map(NonZeroUsize::get), Some(2));
    assert_eq!(args.pace.split_tables_larger_than, Some(2 << 30));
    assert_eq!(args.pace.snapshot_max_age, Some(Duration::from_secs(6 * 3_600)));
    assert_eq!(args.pace.lock_timeout, Some(Duration::from_secs(5)));
    assert_eq!(args.pace.slot_wait, Some(Duration::from_secs(3_600)));
    assert_eq!(args.pace.status_interval, Some(Duration::from_millis(500)));
    assert_eq!(args.files.pgbin, Some(PathBuf::from("/opt/bin")));
    assert_eq!(args.files.work_dir, Some(PathBuf::from("/spool")));
    assert_eq!(args.metrics_addr, Some("[::1]:9187".parse().unwrap()));
    assert!(args.talk.json && !args.talk.quiet && !args.talk.debug);
    assert_eq!((args.talk.verbose, args.talk.log_format), (2, LogFormatArg::Json));
}

#[test]
fn the_method_has_an_older_name_and_a_longer_value() {
    assert_eq!(migrate("").method, MethodArg::Auto);
    assert_eq!(migrate("--force-method dump").method, MethodArg::Dump);
    assert_eq!(migrate("--force-method replication").method, MethodArg::Replication);
    assert_eq!(migrate("--force-method replication_with_dump_fallback").method, MethodArg::Fallback);
}

#[test]
fn other_commands_are_read() {
    let line = "check --source a --target b --skip-table x --replica-identity full -q";
    assert!(matches!(read(line), Ok(Parsed::Run(Args { command: Command::Check(_) }))));
    let line = "worker -s a -t b -j 3 --copy-rate 5MB --wait 1h --metrics-addr 127.0.0.1:1";
    let Ok(Parsed::Run(Args { command: Command::Worker(worker) })) = read(line) else { panic!("worker") };
    assert_eq!((worker.copy_jobs.map(NonZeroUsize::get), worker.wait), (Some(3), Duration::from_secs(3_600)));
    assert_eq!(worker.copy_rate.map(NonZeroU64::get), Some(5 << 20));
    let Ok(Parsed::Run(Args { command: Command::Demo(demo) })) = read("demo --size 3 --seconds 5") else {
        panic!("demo");
    };
    assert_eq!((demo.size, demo.seconds), (3, Duration::from_secs(5)));
}

#[test]
fn a_mistake_is_one_sentence() {
    for (line, sentence) in [
        ("", "no command is given"),
        ("migrat", "there is no such command; did you mean migrate?"),
        ("migrate --untill x", "there is no option --untill; did you mean --until?"),
        ("migrate -x", "there is no option -x"),
        ("migrate stray", "an argument stands there that belongs to no option"),
        ("migrate -s", "--source needs a value"),
        ("migrate -s a -s b", "--source is given twice"),
        ("migrate --json=yes", "--json has a value it cannot take: it takes none"),
        ("migrate --method copy", "--method has a value it cannot take: write auto or replication or dump"),
        ("migrate --until dawn", "--until has a value it cannot take: write caught-up"),
        ("check --log-format xml", "--log-format has a value it cannot take: write text or json"),
        ("migrate -j 0", "--copy-jobs has a value it cannot take: write a whole number from 1 to 256"),
        ("demo --size 0", "--size has a value it cannot take: 0 is not in 1..=10000"),
        (
            "migrate --metrics-addr 9187",
            "--metrics-addr has a value it cannot take: \
             write an IP address and a port, such as 127.0.0.1:9187 or [::1]:9187",
        ),
    ] {
        assert_eq!(misuse(line), sentence, "{line:?}");
    }
}

#[test]
fn no_mistake_repeats_a_connection_string() {
    const DSN: &str = "postgres://me:hunter2@host/db?sslmode=require";
    for line in [
        DSN.to_owned(),
        format!("migrate {DSN}"),
        format!("migrate --{DSN}"),
        format!("migrate -{DSN}"),
        format!("migrate --sauce={DSN}"),
        format!("migrate -s {DSN} {DSN}"),
        format!("migrate -s {DSN} --source={DSN}"),
        format!("migrate --until {DSN}"),
        format!("migrate --copy-jobs {DSN}"),
        format!("migrate --lock-timeout {DSN}"),
        format!("migrate --split-tables-larger-than {DSN}"),
        format!("migrate --metrics-addr {DSN}"),
        format!("migrate --insert-only {DSN},"),
        format!("migrate --json={DSN}"),
        format!("demo --size {DSN}"),
        format!("{DSN} migrate"),
    ] {
        let error = read(&line).expect_err(&line);
        let shown = format!("{error:?} {} {:?}", describe(&error), error.advice());
        assert!(!shown.contains("hunter2"), "{line}: {shown}");
    }
    let shown = format!("{:?}", migrate(&format!("-s {DSN} -t {DSN}x")));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn help_and_version_are_no_mistakes() {
    let Ok(Parsed::Show(version)) = read("--version") else { panic!("--version") };
    assert_eq!(version, format!("pgstream {}\n", env!("CARGO_PKG_VERSION")));
    let Ok(Parsed::Show(help)) = read("migrate --help") else { panic!("--help") };
    for heading in
        ["Servers:", "Tables:", "Ending (", "Speed and patience:", "Files:", "Output:", "Exit status:"]
    {
        assert!(help.contains(&format!("\n{heading}")), "{heading} is missing in\n{help}");
    }
    let Ok(Parsed::Show(help)) = read("--help") else { panic!("--help") };
    for command in ["check", "migrate", "demo"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing in\n{help}");
    }
}

#[test]
fn defaults_told_in_help_are_the_defaults_there_are() {
    use crate::migrate::Options;
    let Ok(Parsed::Show(help)) = read("migrate --help") else { panic!("--help") };
    let told = |option: &str| {
        let after = help.split_once(option).unwrap().1.split_once("[default:").unwrap().1;
        after.split_once(']').unwrap().0.trim().to_owned()
    };
    assert_eq!(told("--index-jobs"), Options::INDEX_JOBS_DEFAULT.to_string());
    assert_eq!(quantity::bytes(&told("--split-tables")), Ok(Options::SPLIT_BYTES_DEFAULT));
    assert_eq!(quantity::duration(&told("--lock-timeout")), Ok(Options::LOCK_TIMEOUT_DEFAULT));
    assert_eq!(quantity::duration(&told("--slot-wait")), Ok(Options::SLOT_WAIT_DEFAULT));
    assert_eq!(quantity::duration(&told("--status-interval")), Ok(Options::STATUS_INTERVAL_DEFAULT));
    assert!(told("--copy-jobs").ends_with(&Options::COPY_JOBS_MAX_DEFAULT.to_string()));
}
