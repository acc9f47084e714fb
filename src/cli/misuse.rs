//! What is wrong with a command line, in one sentence.
//!
//! Hazard: the parser's own messages repeat what was typed, and a connection string typed in the wrong
//! place holds a password (P94). So only names of options that look like names are ever repeated.

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};

use crate::error::{Error, ErrorKind};
use crate::telemetry::Side;

/// A command line that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// `pgstream` alone.
    #[error("no command is given")]
    NoCommand,
    /// Not a command of ours.
    #[error("there is no such command{}", suggestion(.similar))]
    UnknownCommand {
        /// A command that looks alike.
        similar: Option<String>,
    },
    /// Not an option of this command.
    #[error("there is no option {option}{}", suggestion(.similar))]
    UnknownOption {
        /// Its name.
        option: String,
        /// An option that looks alike.
        similar: Option<String>,
    },
    /// A word that belongs to no option. It is not repeated, for it may be a connection string.
    #[error("an argument stands there that belongs to no option")]
    Stray,
    /// An option without its value.
    #[error("{option} needs a value")]
    NoValue {
        /// Its name.
        option: String,
    },
    /// An option with a value that it cannot take.
    #[error("{option} has a value it cannot take: {expected}")]
    BadValue {
        /// Its name.
        option: String,
        /// What it takes.
        expected: String,
    },
    /// An option given twice.
    #[error("{option} is given twice")]
    Twice {
        /// Its name.
        option: String,
    },
    /// Bytes that are no text.
    #[error("an argument is not valid UTF-8")]
    NotText,
    /// Anything else that the parser finds.
    #[error("it cannot be understood")]
    Other,
    /// `--until` and `--stop-replication`.
    #[error("--until and --stop-replication are two ways to end: give one of them")]
    TwoEndings,
    /// `--max-replication-lag` alone.
    #[error("--max-replication-lag says when --stop-replication may stop: give both, or neither")]
    LagWithoutStop,
    /// `--database` and `--all-databases`.
    #[error("--database names what moves, and --all-databases moves all: give one of them")]
    NamedAndAll,
    /// `--database` and `--exclude-db`.
    #[error("--exclude-db leaves databases out of all, not of those that --database names")]
    NamedAndExcluded,
    /// `--exclude-db` where one database moves.
    #[error("--exclude-db leaves databases out of all, but the source names one: add --all-databases")]
    ExceptionFromOne,
    /// A database that would be moved twice, or two that would become one.
    #[error("{name:?} is given twice: each --database needs a name of its own, on either side")]
    DatabaseTwice {
        /// Its name.
        name: String,
    },
    /// `--no-roles` and an option about roles.
    #[error(
        "--no-roles leaves no role for --excluded-roles, --show-passwords and --role-passwords to speak of"
    )]
    NoRolesAndRoles,
    /// `pg_migrate --stop-replication` without a lag to wait for.
    #[error("--stop-replication needs --max-replication-lag, the bytes that may be missing then")]
    StopWithoutLag,
    /// `-q` and `-v`.
    #[error("--quiet and --verbose contradict each other")]
    QuietAndVerbose,
    /// A table that is to be left out and carried.
    #[error("{table} stands under both --skip-table and --insert-only")]
    SkippedAndCarried {
        /// As it was written.
        table: String,
    },
    /// Two ways to choose tables.
    #[error("--with-table and --skip-table are two ways to choose tables: give one of them")]
    WithAndSkip,
    /// `--replicate-extension-tables` and its opposite.
    #[error("--replicate-extension-tables and --no-replicate-extension-tables contradict each other")]
    ExtensionTablesTwice,
    /// No server is named.
    #[error("no {} is named: give {} or set {}", side.label(), option(*.side), variable(*.side))]
    NoServer {
        /// Which one.
        side: Side,
    },
    /// Neither server is named.
    #[error(
        "no server is named: give --source, --target or both, or set SOURCE_SERVICE_URI or TARGET_SERVICE_URI"
    )]
    NoServerAtAll,
    /// Both ends are one.
    #[error("source and target are the same database")]
    SameServer,
}

/// The option that names a server.
pub(super) const fn option(side: Side) -> &'static str {
    match side {
        Side::Source => "--source",
        Side::Target => "--target",
    }
}

/// The environment variable that names a server.
pub(super) const fn variable(side: Side) -> &'static str {
    match side {
        Side::Source => "SOURCE_SERVICE_URI",
        Side::Target => "TARGET_SERVICE_URI",
    }
}

fn suggestion(similar: &Option<String>) -> String {
    similar.as_ref().map(|similar| format!("; did you mean {similar}?")).unwrap_or_default()
}

impl From<Misuse> for Error {
    fn from(misuse: Misuse) -> Error {
        let asks_for_help = matches!(
            misuse,
            Misuse::NoCommand | Misuse::UnknownCommand { .. } | Misuse::UnknownOption { .. } | Misuse::Stray
        );
        let error = Error::new(ErrorKind::Usage, "read the command line").because(misuse);
        if asks_for_help {
            error.hint("`pgstream --help` lists the commands, `pgstream COMMAND --help` what each takes.")
        } else {
            error
        }
    }
}

impl Misuse {
    /// What the parser found, without what was typed.
    pub(super) fn from_clap(error: &clap::Error) -> Misuse {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            // The likeliest comes last.
            Some(ContextValue::Strings(texts)) => texts.last().cloned(),
            _ => None,
        };
        let given = text(ContextKind::InvalidArg).and_then(|argument| option_name(&argument));
        let option = || given.clone().unwrap_or_else(|| "an option".to_owned());
        match error.kind() {
            ClapKind::UnknownArgument => match given {
                Some(option) => {
                    let similar = text(ContextKind::SuggestedArg);
                    Misuse::UnknownOption { option, similar }
                }
                None => Misuse::Stray,
            },
            ClapKind::InvalidSubcommand => {
                Misuse::UnknownCommand { similar: text(ContextKind::SuggestedSubcommand) }
            }
            ClapKind::MissingSubcommand | ClapKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Misuse::NoCommand
            }
            ClapKind::InvalidValue => match error.get(ContextKind::InvalidValue) {
                Some(ContextValue::String(value)) if !value.is_empty() => {
                    Misuse::BadValue { option: option(), expected: choices(error) }
                }
                _ => Misuse::NoValue { option: option() },
            },
            ClapKind::ValueValidation => {
                let expected = std::error::Error::source(error).map(ToString::to_string);
                Misuse::BadValue {
                    option: option(),
                    expected: expected.unwrap_or_else(|| "see --help".to_owned()),
                }
            }
            ClapKind::TooManyValues => {
                Misuse::BadValue { option: option(), expected: "it takes none".to_owned() }
            }
            ClapKind::ArgumentConflict => Misuse::Twice { option: option() },
            ClapKind::TooFewValues | ClapKind::WrongNumberOfValues | ClapKind::NoEquals => {
                Misuse::NoValue { option: option() }
            }
            ClapKind::InvalidUtf8 => Misuse::NotText,
            _ => Misuse::Other,
        }
    }
}

/// `write text or json`
fn choices(error: &clap::Error) -> String {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => format!("write {}", values.join(" or ")),
        _ => "see --help".to_owned(),
    }
}

/// The option's bare name out of `--until <WHEN>` or `--x=y`; `None` for anything that is not plainly a name.
fn option_name(argument: &str) -> Option<String> {
    let name = argument.split([' ', '=']).next()?;
    let bare = name.strip_prefix("--").or_else(|| name.strip_prefix('-'))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!bare.is_empty() && bare.bytes().all(plain)).then(|| name.to_owned())
}
