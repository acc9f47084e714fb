//! From what was typed to what the engine takes, contradictions found on the way.

use super::args::{
    CheckArgs, Command, EndingArgs, Identity, LogFormatArg, MigrateArgs, ReplicaIdentity, Talk, Until,
};
use super::misuse::Misuse;
use super::quantity::TableList;
use crate::migrate::cluster::{Order, Roles};
use crate::migrate::{Ending, Full, IdentityChoice, Options, Output};
use crate::pg::Conninfo;
use crate::telemetry::{LogFormat, Verbosity};

impl Command {
    /// What is said, whatever the command.
    #[must_use]
    pub fn talk(&self) -> &Talk {
        match self {
            Command::Check(check) => &check.talk,
            Command::Migrate(migrate) => &migrate.talk,
            Command::PgMigrate(pg_migrate) => &pg_migrate.talk,
            Command::Demo(demo) => &demo.talk,
        }
    }

    pub(super) fn contradiction(&self) -> Option<Misuse> {
        let own = match self {
            Command::Check(check) => {
                check.databases.contradiction().or_else(|| check.identity.contradiction())
            }
            Command::Migrate(migrate) => {
                let ending = migrate.ending.ending().err();
                ending
                    .or_else(|| migrate.databases.contradiction())
                    .or_else(|| migrate.roles.contradiction())
                    .or_else(|| migrate.identity.contradiction())
            }
            Command::PgMigrate(pg_migrate) => pg_migrate.contradiction(),
            Command::Demo(_) => None,
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

impl Identity {
    /// The choice for tables without a key, as the engine takes it.
    #[must_use]
    pub fn choice(&self) -> IdentityChoice {
        let names = |lists: &[TableList]| lists.iter().flat_map(|list| list.0.clone()).collect();
        IdentityChoice {
            full: match self.replica_identity {
                Some(ReplicaIdentity::Full) => Full::Keyless,
                None => Full::No,
            },
            insert_only: names(&self.insert_only),
            skip: names(&self.skip_table),
        }
    }

    fn contradiction(&self) -> Option<Misuse> {
        let choice = self.choice();
        let both = choice.skip.into_iter().find(|table| choice.insert_only.contains(table));
        both.map(|table| Misuse::SkippedAndCarried { table })
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

impl CheckArgs {
    /// What is to be checked, between these two servers.
    ///
    /// # Errors
    /// As [`super::Databases::wanted`].
    pub fn order(self, source: Conninfo, target: Conninfo) -> Result<Order, Misuse> {
        let wanted = self.databases.wanted(&source, &target)?;
        let creation = self.databases.creation();
        let options = Options { identity: self.identity.choice(), ..Options::new(source, target) };
        Ok(Order { options, wanted, creation, roles: Roles::Leave })
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
        Ok(Order { options: self.options(source, target)?, wanted, creation, roles })
    }

    /// The engine's options: what was given, and defaults for the rest.
    ///
    /// # Errors
    /// As [`EndingArgs::ending`].
    pub fn options(self, source: Conninfo, target: Conninfo) -> Result<Options, Misuse> {
        let defaults = Options::new(source, target);
        Ok(Options {
            ending: self.ending.ending()?,
            identity: self.identity.choice(),
            output: self.talk.output(),
            pgbin: self.files.pgbin,
            work_dir: self.files.work_dir,
            metrics_addr: self.metrics_addr,
            copy_jobs: self.pace.copy_jobs.unwrap_or(defaults.copy_jobs),
            index_jobs: self.pace.index_jobs.unwrap_or(defaults.index_jobs),
            split_bytes: self.pace.split_tables_larger_than.unwrap_or(defaults.split_bytes),
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
        let line = "--replica-identity full --insert-only x,\"Y\" --insert-only z --skip-table w --json \
                    -j 3 --index-jobs 2 --split-tables-larger-than 2GB --lock-timeout 5s --slot-wait 1h \
                    --status-interval 500ms --pgbin /opt/bin --work-dir /spool --metrics-addr 0.0.0.0:1";
        let given = options(line);
        let defaults = Options::new(conninfo("a"), conninfo("b"));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let expected = IdentityChoice {
            full: Full::Keyless,
            insert_only: names(&["x", "\"Y\"", "z"]),
            skip: names(&["w"]),
        };
        assert_eq!(given.identity, expected);
        assert_eq!(given.output, Output::Json);
        assert_eq!((given.copy_jobs.get(), given.index_jobs.get()), (3, 2));
        assert_ne!(given.split_bytes, defaults.split_bytes);
        assert_ne!(given.lock_timeout, defaults.lock_timeout);
        assert_ne!(given.slot_wait, defaults.slot_wait);
        assert_ne!(given.status_interval, defaults.status_interval);
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
