//! `pgstream pg_migrate`: the options of aiven-db-migrate, read as that tool reads them.
//!
//! Hazard: a script written for that tool must mean the same here. So its variables go before its options, its
//! two-letter options begin with one dash, its options may be shortened, and all databases are meant whatever
//! the connection strings name. What differs is told in help: here the changes flow through this process, so
//! without `--stop-replication` it goes on where that tool left a subscription behind.

use std::ffi::OsString;
use std::path::PathBuf;

use super::args::secret;
use super::args::{
    AutoDdlArg, CheckArgs, Checks, EndingArgs, Files, Filters, Identity, MethodArg, MigrateArgs, Pace,
    Servers, SpoolArgs, Talk, Until,
};
use super::misuse::{Misuse, variable};
use super::quantity::{self, Limit, TableList};
use super::selection::{self, Databases, NameList, RoleArgs, RoleList};
use crate::pg::Secret;
use crate::telemetry::Side;

/// `pgstream pg_migrate`.
#[derive(Debug, Clone, clap::Args)]
pub struct PgMigrateArgs {
    /// The server to move from; SOURCE_SERVICE_URI goes before it.
    #[arg(short, long, value_name = "DSN", value_parser = secret)]
    pub source: Option<Secret>,
    /// The server to move to; TARGET_SERVICE_URI goes before it.
    #[arg(short, long, value_name = "DSN", value_parser = secret)]
    pub target: Option<Secret>,
    /// Databases to leave out, parted by commas.
    #[arg(short = 'f', long, value_name = "NAME,…", value_parser = selection::names)]
    pub filtered_db: Vec<NameList>,
    /// Roles to leave out, parted by commas [also: -xr, -fr].
    #[arg(long, visible_alias = "filtered-roles", value_name = "NAME,…", value_parser = selection::roles)]
    pub excluded_roles: Vec<RoleList>,
    /// Extensions to leave out, parted by commas [also: -xe].
    #[arg(long, value_name = "NAME,…", value_parser = quantity::tables)]
    pub excluded_extensions: Vec<TableList>,
    /// Do not create databases that the target lacks.
    #[arg(long)]
    pub no_createdb: bool,
    /// Needs nothing here: no name of ours holds a database's.
    #[arg(short, long)]
    pub mangle: bool,
    /// End once no more than these bytes of WAL are missing; -1 follows until interrupted.
    #[arg(long, value_name = "BYTES", default_value = "-1", allow_negative_numbers = true)]
    pub max_replication_lag: i64,
    /// End for good at that lag, and remove slots and all else of ours from the source.
    #[arg(long)]
    pub stop_replication: bool,
    /// Only check; change nothing.
    #[arg(long)]
    pub validate: bool,
    /// Move only this table, named by one to three parts; repeatable.
    #[arg(long, value_name = "TABLE", value_parser = quantity::tables)]
    pub with_table: Vec<TableList>,
    /// Leave this table out, named by one to three parts; repeatable.
    #[arg(long, value_name = "TABLE", value_parser = quantity::tables)]
    pub skip_table: Vec<TableList>,
    /// Move the rows of extensions' tables as well; so it is unless told otherwise.
    #[arg(long, overrides_with = "no_replicate_extension_tables")]
    pub replicate_extension_tables: bool,
    /// Leave the rows of extensions' tables behind.
    #[arg(long, overrides_with = "replicate_extension_tables")]
    pub no_replicate_extension_tables: bool,
    /// Move by this method only.
    #[arg(long, value_name = "METHOD")]
    pub force_method: Option<MethodArg>,
    /// Refuse databases that hold more bytes than this together, with --validate or without; -1 takes any.
    #[arg(long, value_name = "BYTES", value_parser = quantity::limit, allow_negative_numbers = true)]
    pub dbs_max_total_size: Option<Limit>,
    /// Take pg_dump and pg_restore from this directory.
    #[arg(long, value_name = "DIR")]
    pub pgbin: Option<PathBuf>,
    /// Only warn of a target that is older than the source.
    #[arg(long)]
    pub skip_db_version_check: bool,
    /// Show the passwords of roles that were given a new one.
    #[arg(long)]
    pub show_passwords: bool,
    /// Write what became of everything to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
    /// What is said.
    #[command(flatten)]
    pub talk: Talk,
}

/// What such a line comes to here.
#[derive(Debug)]
pub(super) enum Meant {
    Check(Box<CheckArgs>),
    Migrate(Box<MigrateArgs>),
}

impl PgMigrateArgs {
    pub(super) fn contradiction(&self) -> Option<Misuse> {
        if self.stop_replication && self.max_replication_lag < 0 {
            return Some(Misuse::StopWithoutLag);
        }
        (!self.with_table.is_empty() && !self.skip_table.is_empty()).then_some(Misuse::WithAndSkip)
    }

    /// The same in our own words. `env` gives environment variables.
    pub(super) fn meant(self, env: impl Fn(&str) -> Option<String>) -> Meant {
        let server = |side: Side, given: Option<Secret>| {
            env(variable(side)).filter(|text| !text.is_empty()).map(Secret::new).or(given)
        };
        let servers =
            Servers { source: server(Side::Source, self.source), target: server(Side::Target, self.target) };
        let databases = Databases {
            database: Vec::new(),
            all_databases: true,
            exclude_db: self.filtered_db,
            no_createdb: self.no_createdb,
        };
        let identity = Identity { replica_identity: None, insert_only: Vec::new() };
        let filters = Filters {
            with_table: self.with_table,
            skip_table: self.skip_table,
            excluded_extensions: self.excluded_extensions,
            no_replicate_extension_tables: self.no_replicate_extension_tables,
            ..Filters::default()
        };
        let checks = Checks {
            skip_db_version_check: self.skip_db_version_check,
            target_free_bytes: None,
            dbs_max_total_size: self.dbs_max_total_size,
            trial_restore: false,
        };
        // There, a source that cannot replicate is dumped whatever else was asked for.
        let method = self.force_method.unwrap_or(MethodArg::Fallback);
        let files = Files { pgbin: self.pgbin, work_dir: None };
        if self.validate {
            let talk = self.talk;
            return Meant::Check(Box::new(CheckArgs {
                servers,
                databases,
                method,
                identity,
                filters,
                checks,
                files,
                talk,
            }));
        }
        let lag = u64::try_from(self.max_replication_lag).ok();
        let ending = match (self.stop_replication, lag) {
            (true, lag) => EndingArgs { until: None, stop_replication: true, max_replication_lag: lag },
            // Slots and records stay; the same command with --stop-replication goes on from there.
            (false, Some(_)) => EndingArgs {
                until: Some(Until::CaughtUp),
                stop_replication: false,
                max_replication_lag: None,
            },
            (false, None) => EndingArgs { until: None, stop_replication: false, max_replication_lag: None },
        };
        Meant::Migrate(Box::new(MigrateArgs {
            servers,
            databases,
            roles: RoleArgs {
                excluded_roles: self.excluded_roles,
                show_passwords: self.show_passwords,
                ..RoleArgs::default()
            },
            method,
            identity,
            filters,
            checks,
            ending,
            auto_ddl: AutoDdlArg::Off,
            quarantine: None,
            pace: Pace {
                copy_jobs: None,
                apply_lanes: None,
                index_jobs: None,
                copy_rate: None,
                maintenance_work_mem: None,
                max_parallel_maintenance_workers: None,
                split_tables_larger_than: None,
                snapshot_max_age: None,
                lock_timeout: None,
                slot_wait: None,
                status_interval: None,
            },
            files,
            spool: SpoolArgs::default(),
            metrics_addr: None,
            report: self.report_file,
            talk: self.talk,
        }))
    }
}

/// Its options of two letters and one dash, which no other command has: `-xr a`, `-xr=a`.
const TWO_LETTERS: [(&str, &str); 3] =
    [("-xr", "--excluded-roles"), ("-fr", "--excluded-roles"), ("-xe", "--excluded-extensions")];

/// Writes the two-letter options of a `pg_migrate` line out; any other line stays as it is.
pub(super) fn two_letter_flags(words: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut ours = None;
    words.into_iter().enumerate().map(move |(position, word)| {
        if position == 1 {
            ours = Some(word == "pg_migrate" || word == "pg-migrate");
        }
        if ours != Some(true) {
            return word;
        }
        let Some(text) = word.to_str() else { return word };
        let (flag, value) = text.split_once('=').map_or((text, None), |(flag, value)| (flag, Some(value)));
        match (TWO_LETTERS.iter().find(|(short, _)| *short == flag), value) {
            (Some((_, long)), Some(value)) => format!("{long}={value}").into(),
            (Some((_, long)), None) => (*long).into(),
            (None, _) => word,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::args::{Args, Command, LogFormatArg, Parsed};
    use super::*;
    use crate::error::{Error, describe};
    use crate::migrate::Ending;

    fn read(line: &str) -> Result<PgMigrateArgs, Error> {
        let words = ["pgstream", "pg_migrate"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        match Args::read(words)? {
            Parsed::Run(Args { command: Command::PgMigrate(args) }) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    fn migrate(line: &str) -> MigrateArgs {
        match read(line).unwrap().meant(|_| None) {
            Meant::Migrate(args) => *args,
            other @ Meant::Check(_) => panic!("{other:?}"),
        }
    }

    /// Reads the line without its contradictions.
    fn words(line: &str) -> PgMigrateArgs {
        use clap::Parser as _;
        let words = ["pgstream", "pg_migrate"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        match Args::try_parse_from(two_letter_flags(words)).unwrap().command {
            Command::PgMigrate(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn list(names: &[&str]) -> NameList {
        NameList(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn roles(text: &str) -> RoleList {
        selection::roles(text).unwrap()
    }

    #[test]
    fn every_option_of_the_tool_is_read() {
        let args = words(
            "-s a -t b -f x,y -xr r1,r2 -fr=r3 -xe e1 -v --no-createdb -m --max-replication-lag 5 \
             --stop-replication --validate --with-table a.b --skip-table c --replicate-extension-tables \
             --force-method replication_with_dump_fallback --dbs-max-total-size 9 --pgbin /bin \
             --skip-db-version-check --show-passwords --migration-id m1 --report-file /tmp/r",
        );
        assert_eq!((args.source, args.target), (Some(Secret::new("a")), Some(Secret::new("b"))));
        assert_eq!(args.filtered_db, [list(&["x", "y"])]);
        assert_eq!(args.excluded_roles, [roles("r1,r2"), roles("r3")]);
        assert_eq!(args.excluded_extensions, [TableList(vec!["e1".to_owned()])]);
        assert!(args.no_createdb && args.mangle && args.stop_replication && args.validate);
        assert_eq!((args.max_replication_lag, args.dbs_max_total_size), (5, Some(Limit(Some(9)))));
        assert_eq!(args.with_table, [TableList(vec!["a.b".to_owned()])]);
        assert_eq!(args.skip_table, [TableList(vec!["c".to_owned()])]);
        assert!(args.replicate_extension_tables && !args.no_replicate_extension_tables);
        assert_eq!(args.force_method, Some(MethodArg::Fallback));
        assert!(args.skip_db_version_check && args.show_passwords);
        assert_eq!(args.talk.migration_id.as_deref(), Some("m1"));
        assert_eq!((args.pgbin, args.report_file), (Some("/bin".into()), Some("/tmp/r".into())));
        assert_eq!((args.talk.verbose, args.talk.debug), (1, false));
        assert!(words("-d").talk.debug);
    }

    #[test]
    fn its_options_may_be_shortened_and_its_defaults_hold() {
        assert_eq!(words("--filtered-roles a --max-rep -1").excluded_roles, [roles("a")]);
        let args = migrate("");
        assert!(args.databases.all_databases && !args.databases.no_createdb);
        assert_eq!(args.ending.ending(), Ok(Ending::Interrupt));
        assert_eq!(args.talk.log_format, LogFormatArg::Text);
    }

    #[test]
    fn endings_are_those_of_the_tool() {
        let ending = |line| migrate(line).ending.ending().unwrap();
        assert_eq!(ending("--max-replication-lag 0 --stop-replication"), Ending::Stop { max_lag_bytes: 0 });
        assert_eq!(ending("--max-replication-lag 7 --stop-replication"), Ending::Stop { max_lag_bytes: 7 });
        assert_eq!(ending("--max-replication-lag 7"), Ending::CaughtUp);
        assert_eq!(ending("--max-replication-lag -1"), Ending::Interrupt);
    }

    #[test]
    fn contradictions_are_one_sentence() {
        for (line, sentence) in [
            (
                "--stop-replication",
                "--stop-replication needs --max-replication-lag, the bytes that may be missing then",
            ),
            (
                "--with-table a --skip-table b",
                "--with-table and --skip-table are two ways to choose tables: give one of them",
            ),
        ] {
            assert_eq!(describe(&read(line).unwrap_err()), format!("read the command line: {sentence}"));
        }
    }

    #[test]
    fn its_variables_go_before_its_options() {
        let env = |name: &str| (name == "SOURCE_SERVICE_URI").then(|| "from-env".to_owned());
        let Meant::Migrate(args) = read("-s a -t b").unwrap().meant(env) else { panic!("migrate") };
        assert_eq!(args.servers.source, Some(Secret::new("from-env")));
        assert_eq!(args.servers.target, Some(Secret::new("b")));
    }

    #[test]
    fn validating_is_a_check_of_all() {
        let Meant::Check(args) = read("--validate -f a").unwrap().meant(|_| None) else { panic!("check") };
        assert!(args.databases.all_databases);
        assert_eq!(args.databases.exclude_db, [list(&["a"])]);
    }

    #[test]
    fn other_commands_keep_their_words() {
        let line = ["pgstream", "migrate", "-xr"].map(OsString::from);
        assert_eq!(two_letter_flags(line.clone()).collect::<Vec<_>>(), line);
    }
}
