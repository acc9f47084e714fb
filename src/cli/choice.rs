//! From what was typed to what the engine takes, contradictions found on the way.

use std::str::FromStr;

use super::args::{
    AutoDdlArg, CheckArgs, Checks, Command, EndingArgs, Filters, Identity, LogFormatArg, MethodArg,
    MigrateArgs, QuarantineArg, ReplicaIdentity, SpoolArgs, Talk, Until,
};
use super::misuse::Misuse;
use super::quantity::TableList;
use crate::catalog::{self, ExtensionRows, InvalidSelector, Owners, Reach};
use crate::migrate::cluster::{Order, Roles, Wanted};
use crate::migrate::{
    AutoDdl, BuildAllowance, Ending, Full, IdentityChoice, MethodChoice, Options, Output, Quarantine,
    Spooling,
};
use crate::pg::Conninfo;
use crate::precheck::{CheckChoice, TrialRestore, VersionRule};
use crate::telemetry::{LogFormat, Verbosity};

impl Command {
    /// What is said, whatever the command.
    #[must_use]
    pub fn talk(&self) -> &Talk {
        match self {
            Command::Check(check) => &check.talk,
            Command::Migrate(migrate) => &migrate.talk,
            Command::Worker(worker) => &worker.talk,
            Command::Status(status) => &status.talk,
            Command::Cleanup(cleanup) => &cleanup.talk,
            Command::PgMigrate(pg_migrate) => &pg_migrate.talk,
            Command::Demo(demo) => &demo.talk,
        }
    }

    pub(super) fn contradiction(&self) -> Option<Misuse> {
        let own = match self {
            Command::Check(check) => {
                check.databases.contradiction().or_else(|| check.filters.contradiction(&check.identity))
            }
            Command::Migrate(migrate) => {
                let ending = migrate.ending.ending().err();
                ending
                    .or_else(|| migrate.databases.contradiction())
                    .or_else(|| migrate.roles.contradiction())
                    .or_else(|| migrate.filters.contradiction(&migrate.identity))
            }
            Command::PgMigrate(pg_migrate) => pg_migrate.contradiction(),
            Command::Worker(_) | Command::Status(_) | Command::Cleanup(_) | Command::Demo(_) => None,
        };
        own.or_else(|| self.talk().contradiction())
    }
}

impl EndingArgs {
    /// The ending asked for.
    ///
    /// # Errors
    /// [`Misuse::TwoEndings`], [`Misuse::LagWithoutStop`].
    pub fn ending(&self) -> Result<Ending, Misuse> {
        match (self.until, self.stop_replication, self.max_replication_lag) {
            (Some(_), true, _) => Err(Misuse::TwoEndings),
            (_, false, Some(_)) => Err(Misuse::LagWithoutStop),
            (None, true, lag) => Ok(Ending::Stop { max_lag_bytes: lag.unwrap_or(0) }),
            (Some(Until::CaughtUp), false, None) => Ok(Ending::CaughtUp),
            (None, false, None) => Ok(Ending::Interrupt),
        }
    }
}

impl MethodArg {
    /// The method, as the engine takes it.
    #[must_use]
    pub fn choice(self) -> MethodChoice {
        match self {
            MethodArg::Auto => MethodChoice::Auto,
            MethodArg::Fallback => MethodChoice::Fallback,
            MethodArg::Replication => MethodChoice::Replication,
            MethodArg::Dump => MethodChoice::Dump,
        }
    }
}

impl Identity {
    /// The choice for tables without a key, as the engine takes it.
    #[must_use]
    pub fn choice(&self) -> IdentityChoice {
        IdentityChoice {
            full: match self.replica_identity {
                Some(ReplicaIdentity::Full) => Full::Keyless,
                None => Full::No,
            },
            insert_only: names(&self.insert_only),
        }
    }
}

impl Filters {
    /// What is moved, as the engine takes it.
    ///
    /// # Errors
    /// [`Misuse::WithAndSkip`], [`Misuse::ExtensionTablesTwice`]; [`Misuse::BadValue`] for what names nothing.
    pub fn choice(&self) -> Result<catalog::Filters, Misuse> {
        if !self.with_table.is_empty() && !self.skip_table.is_empty() {
            return Err(Misuse::WithAndSkip);
        }
        if self.replicate_extension_tables && self.no_replicate_extension_tables {
            return Err(Misuse::ExtensionTablesTwice);
        }
        Ok(catalog::Filters {
            include_schemas: selectors("--include-schema", &self.include_schema)?,
            exclude_schemas: selectors("--exclude-schema", &self.exclude_schema)?,
            with_tables: selectors("--with-table", &self.with_table)?,
            skip_tables: selectors("--skip-table", &self.skip_table)?,
            excluded_extensions: selectors("--excluded-extensions", &self.excluded_extensions)?,
            extension_rows: match self.no_replicate_extension_tables {
                true => ExtensionRows::LeftOut,
                false => ExtensionRows::Carried,
            },
            owners: if self.no_owner { Owners::Dropped } else { Owners::Kept },
            reach: Reach::Database,
        })
    }

    fn contradiction(&self, identity: &Identity) -> Option<Misuse> {
        let insert_only = identity.choice().insert_only;
        let both = names(&self.skip_table).into_iter().find(|table| insert_only.contains(table));
        self.choice().err().or_else(|| both.map(|table| Misuse::SkippedAndCarried { table }))
    }
}

fn names(lists: &[TableList]) -> Vec<String> {
    lists.iter().flat_map(|list| list.0.clone()).collect()
}

/// Reads names by the server's rules.
fn selectors<T: FromStr<Err = InvalidSelector>>(option: &str, lists: &[TableList]) -> Result<Vec<T>, Misuse> {
    let bad = |error: InvalidSelector| Misuse::BadValue {
        option: option.to_owned(),
        expected: error.rule().to_owned(),
    };
    names(lists).iter().map(|name| name.parse().map_err(bad)).collect()
}

impl Checks {
    /// What the checks are told.
    #[must_use]
    pub fn choice(&self) -> CheckChoice {
        CheckChoice {
            version: if self.skip_db_version_check { VersionRule::Waived } else { VersionRule::Enforced },
            target_free_bytes: self.target_free_bytes,
            total_bytes_max: self.dbs_max_total_size.and_then(|limit| limit.0),
            trial_restore: if self.trial_restore { TrialRestore::Yes } else { TrialRestore::No },
        }
    }
}

impl Talk {
    /// How much to say.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        let asked = match self.verbose {
            0 => Verbosity::Normal,
            1 => Verbosity::Info,
            2 => Verbosity::Debug,
            _ => Verbosity::Trace,
        };
        match (self.quiet, self.debug) {
            (true, _) => Verbosity::Quiet,
            (false, true) => asked.max(Verbosity::Debug),
            (false, false) => asked,
        }
    }

    /// How log lines are written.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match self.log_format {
            LogFormatArg::Text => LogFormat::Text,
            LogFormatArg::Json => LogFormat::Json,
        }
    }

    /// How the result is written.
    #[must_use]
    pub fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }

    fn contradiction(&self) -> Option<Misuse> {
        (self.quiet && (self.verbose > 0 || self.debug)).then_some(Misuse::QuietAndVerbose)
    }
}

/// Of several databases a selector need not find something in each.
fn within(wanted: &Wanted, filters: catalog::Filters) -> catalog::Filters {
    let reach = match wanted {
        Wanted::One(_) => Reach::Database,
        Wanted::Named(_) | Wanted::All { .. } => Reach::Cluster,
    };
    catalog::Filters { reach, ..filters }
}

impl CheckArgs {
    /// What is to be checked, between these two servers.
    ///
    /// # Errors
    /// As [`super::Databases::wanted`].
    pub fn order(self, source: Conninfo, target: Conninfo) -> Result<Order, Misuse> {
        let wanted = self.databases.wanted(&source, &target)?;
        let creation = self.databases.creation();
        let options = Options {
            method: self.method.choice(),
            identity: self.identity.choice(),
            filters: within(&wanted, self.filters.choice()?),
            checks: self.checks.choice(),
            pgbin: self.files.pgbin,
            work_dir: self.files.work_dir,
            ..Options::new(source, target)
        };
        Ok(Order { options, wanted, creation, roles: Roles::Leave })
    }
}

impl SpoolArgs {
    fn choice(self) -> Spooling {
        match self.no_spool {
            true => Spooling::Off,
            false => Spooling::On { bytes_max: self.spool_max },
        }
    }
}

impl MigrateArgs {
    /// What is to be moved, between these two servers.
    ///
    /// # Errors
    /// As [`MigrateArgs::options`] and [`super::Databases::wanted`].
    pub fn order(self, source: Conninfo, target: Conninfo) -> Result<Order, Misuse> {
        let wanted = self.databases.wanted(&source, &target)?;
        let creation = self.databases.creation();
        let roles = self.roles.roles();
        let options = self.options(source, target)?;
        let options = Options { filters: within(&wanted, options.filters.clone()), ..options };
        Ok(Order { options, wanted, creation, roles })
    }

    /// The engine's options: what was given, and defaults for the rest.
    ///
    /// # Errors
    /// As [`EndingArgs::ending`].
    pub fn options(self, source: Conninfo, target: Conninfo) -> Result<Options, Misuse> {
        let defaults = Options::new(source, target);
        Ok(Options {
            method: self.method.choice(),
            ending: self.ending.ending()?,
            auto_ddl: match self.auto_ddl {
                AutoDdlArg::Off => AutoDdl::Off,
                AutoDdlArg::Additive => AutoDdl::Additive,
            },
            quarantine: match self.quarantine {
                None => Quarantine::Stop,
                Some(QuarantineArg::Park) => Quarantine::Park,
                Some(QuarantineArg::Replay) => Quarantine::Replay,
                Some(QuarantineArg::Discard) => Quarantine::Discard,
            },
            identity: self.identity.choice(),
            filters: self.filters.choice()?,
            checks: self.checks.choice(),
            output: self.talk.output(),
            pgbin: self.files.pgbin,
            work_dir: self.files.work_dir,
            spooling: self.spool.choice(),
            spool_after_bytes: self.spool.spool_after.unwrap_or(defaults.spool_after_bytes),
            metrics_addr: self.metrics_addr,
            copy_jobs: self.pace.copy_jobs.unwrap_or(defaults.copy_jobs),
            apply_lanes: self.pace.apply_lanes.unwrap_or(defaults.apply_lanes),
            index_jobs: self.pace.index_jobs.unwrap_or(defaults.index_jobs),
            copy_rate: self.pace.copy_rate,
            build_allowance: BuildAllowance {
                memory_bytes: self.pace.maintenance_work_mem,
                parallel_workers: self.pace.max_parallel_maintenance_workers,
            },
            split_bytes: self.pace.split_tables_larger_than.unwrap_or(defaults.split_bytes),
            snapshot_age_max: self.pace.snapshot_max_age,
            lock_timeout: self.pace.lock_timeout.unwrap_or(defaults.lock_timeout),
            slot_wait: self.pace.slot_wait.unwrap_or(defaults.slot_wait),
            status_interval: self.pace.status_interval.unwrap_or(defaults.status_interval),
            ..defaults
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Args, Parsed};
    use crate::error::{Error, describe};
    use crate::pg::{ChannelBindingMode, Host, HostName, SslMode, SslNegotiation, TargetSessionAttrs};
    use std::ffi::OsString;

    fn read(line: &str) -> Result<Command, Error> {
        let words = ["pgstream"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        match Args::read(words)? {
            Parsed::Run(args) => Ok(args.command),
            Parsed::Show(text) => panic!("{text}"),
        }
    }

    fn conninfo(host: &str) -> Conninfo {
        Conninfo {
            hosts: vec![Host { name: HostName::Tcp(host.to_owned()), hostaddr: None, port: 5432 }],
            user: "u".to_owned(),
            password: None,
            passfile: Default::default(),
            dbname: None,
            connect_timeout: None,
            options: None,
            application_name: None,
            sslmode: SslMode::Prefer,
            sslnegotiation: SslNegotiation::Postgres,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            channel_binding: ChannelBindingMode::Prefer,
            target_session_attrs: TargetSessionAttrs::Any,
            keepalives_idle: None,
            tcp_user_timeout: None,
        }
    }

    fn options(line: &str) -> Options {
        match read(&format!("migrate {line}")) {
            Ok(Command::Migrate(args)) => args.options(conninfo("a"), conninfo("b")).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        assert_eq!(options(""), Options::new(conninfo("a"), conninfo("b")));
    }

    #[test]
    fn everything_given_arrives() {
        let line = "--method dump --replica-identity full --insert-only x,\"Y\" --insert-only z --skip-table w --json \
                    -j 3 --index-jobs 2 --copy-rate 5MB --maintenance-work-mem 1GB --max-parallel-maintenance-workers 3 --split-tables-larger-than 2GB --lock-timeout 5s --slot-wait 1h \
                    --include-schema app,shop.\"X\" --exclude-schema log_* --excluded-extensions hstore \
                    --no-replicate-extension-tables --no-owner --status-interval 500ms --snapshot-max-age 1h --pgbin /opt/bin \
                    --work-dir /spool --spool-max 1TB --spool-after 5GB --metrics-addr 0.0.0.0:1 \
                    --skip-db-version-check --target-free-bytes 2GB --dbs-max-total-size 1GB --trial-restore";
        let given = options(line);
        let defaults = Options::new(conninfo("a"), conninfo("b"));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let expected = IdentityChoice { full: Full::Keyless, insert_only: names(&["x", "\"Y\"", "z"]) };
        let filters = catalog::Filters {
            include_schemas: vec!["app".parse().unwrap(), "shop.\"X\"".parse().unwrap()],
            exclude_schemas: vec!["log_*".parse().unwrap()],
            skip_tables: vec!["w".parse().unwrap()],
            excluded_extensions: vec!["hstore".parse().unwrap()],
            extension_rows: ExtensionRows::LeftOut,
            owners: Owners::Dropped,
            ..catalog::Filters::default()
        };
        assert_eq!(given.filters, filters);
        let with = options("--with-table a.b,c --replicate-extension-tables").filters;
        let wanted = vec!["a.b".parse().unwrap(), "c".parse().unwrap()];
        assert_eq!(with, catalog::Filters { with_tables: wanted, ..catalog::Filters::default() });
        assert_eq!(given.identity, expected);
        assert_eq!(given.method, MethodChoice::Dump);
        let checks = CheckChoice {
            version: VersionRule::Waived,
            target_free_bytes: Some(2 << 30),
            total_bytes_max: Some(1 << 30),
            trial_restore: TrialRestore::Yes,
        };
        assert_eq!(given.checks, checks);
        assert_eq!(options("--dbs-max-total-size -1").checks, CheckChoice::default());
        assert_eq!(given.output, Output::Json);
        assert_eq!((given.copy_jobs.get(), given.index_jobs.get()), (3, 2));
        assert_ne!(given.split_bytes, defaults.split_bytes);
        let allowance = BuildAllowance { memory_bytes: Some(1 << 30), parallel_workers: Some(3) };
        assert_eq!(given.build_allowance, allowance);
        assert_eq!(given.copy_rate.map(std::num::NonZeroU64::get), Some(5 << 20));
        assert_ne!(given.lock_timeout, defaults.lock_timeout);
        assert_ne!(given.snapshot_age_max, defaults.snapshot_age_max);
        assert_ne!(given.slot_wait, defaults.slot_wait);
        assert_ne!(given.status_interval, defaults.status_interval);
        assert_eq!(given.spooling, Spooling::On { bytes_max: Some(1 << 40) });
        assert_eq!(given.spool_after_bytes, 5 << 30);
        assert_eq!(options("--no-spool").spooling, Spooling::Off);
        assert!(given.pgbin.is_some() && given.work_dir.is_some() && given.metrics_addr.is_some());
    }

    #[test]
    fn endings_are_told_apart() {
        assert_eq!(options("").ending, Ending::Interrupt);
        assert_eq!(options("--until caught-up").ending, Ending::CaughtUp);
        assert_eq!(options("--stop-replication").ending, Ending::Stop { max_lag_bytes: 0 });
        let lag = options("--stop-replication --max-replication-lag 16MB").ending;
        assert_eq!(lag, Ending::Stop { max_lag_bytes: 16 << 20 });
    }

    #[test]
    fn contradictions_are_one_sentence() {
        for (line, sentence) in [
            (
                "migrate --until caught-up --stop-replication",
                "--until and --stop-replication are two ways to end: give one of them",
            ),
            (
                "migrate --max-replication-lag 1MB",
                "--max-replication-lag says when --stop-replication may stop: give both, or neither",
            ),
            (
                "migrate --until caught-up --max-replication-lag 1MB",
                "--max-replication-lag says when --stop-replication may stop: give both, or neither",
            ),
            (
                "migrate --database a --all-databases",
                "--database names what moves, and --all-databases moves all: give one of them",
            ),
            (
                "check --database a -f b",
                "--exclude-db leaves databases out of all, not of those that --database names",
            ),
            (
                "migrate --database a:x --database b:x",
                "\"x\" is given twice: each --database needs a name of its own, on either side",
            ),
            ("check -q -v", "--quiet and --verbose contradict each other"),
            ("demo -q -d", "--quiet and --verbose contradict each other"),
            (
                "check --skip-table a,b --insert-only c,b",
                "b stands under both --skip-table and --insert-only",
            ),
            (
                "migrate --skip-table a --with-table b",
                "--with-table and --skip-table are two ways to choose tables: give one of them",
            ),
            (
                "check --exclude-schema a.b.c",
                "--exclude-schema has a value it cannot take: write at most a database and a name, a name that \
                 holds a dot in double quotes",
            ),
            ("check --with-table a.", "--with-table has a value it cannot take: a name in it is empty"),
            (
                "migrate --replicate-extension-tables --no-replicate-extension-tables",
                "--replicate-extension-tables and --no-replicate-extension-tables contradict each other",
            ),
        ] {
            let error = read(line).expect_err(line);
            assert_eq!(describe(&error), format!("read the command line: {sentence}"), "{line}");
        }
    }

    #[test]
    fn verbosity_grows_with_every_v() {
        let verbosity = |line: &str| read(&format!("check {line}")).unwrap().talk().verbosity();
        for (line, expected) in [
            ("", Verbosity::Normal),
            ("-q", Verbosity::Quiet),
            ("-v", Verbosity::Info),
            ("-vv", Verbosity::Debug),
            ("-d", Verbosity::Debug),
            ("-vvv", Verbosity::Trace),
            ("-d -vvvv", Verbosity::Trace),
        ] {
            assert_eq!(verbosity(line), expected, "{line}");
        }
    }
}
