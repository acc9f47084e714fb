//! Why a connection string cannot be used.

use std::io;
use std::path::PathBuf;

use super::settings::Given;

/// A connection that cannot be made out. Names parameters, never values: a password may stand anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    /// The text breaks the grammar. Nothing of it is shown.
    #[error("connection string: {problem} at byte {offset}")]
    Malformed {
        /// What is wrong.
        problem: &'static str,
        /// Where, in bytes from the start of the text.
        offset: usize,
    },
    /// libpq has no such parameter.
    #[error("connection string: unknown parameter {}at byte {offset}; {QUOTE_HINT}", named(.name))]
    UnknownParameter {
        /// Its name, unless it might be a piece of a password that was not quoted or encoded.
        name: Option<String>,
        /// Where, in bytes from the start of the text.
        offset: usize,
    },
    /// A value that is not of its parameter's kind.
    #[error("{parameter} ({given}) must be {expected}")]
    Invalid {
        /// libpq's keyword for it.
        parameter: &'static str,
        /// Where the value comes from.
        given: Given,
        /// What would do.
        expected: &'static str,
    },
    /// A setting that we would have to ignore, and that is not safe to ignore.
    #[error("{parameter} ({given}) is not supported: {reason}")]
    Unsupported {
        /// libpq's keyword for it.
        parameter: &'static str,
        /// Where the value comes from.
        given: Given,
        /// Why.
        reason: &'static str,
    },
    /// No service file defines the service.
    #[error("service {service:?} is not defined in {}", places(.files))]
    ServiceNotFound {
        /// The service.
        service: String,
        /// Where it was looked for; empty when there is no service file at all.
        files: Vec<PathBuf>,
    },
    /// A line of a service file that makes no sense.
    #[error("service file {} line {line}: {problem}", .path.display())]
    ServiceFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A passfile or service file is there but cannot be used.
    #[error("cannot use {}: {kind}{}", .path.display(), if *.kind == io::ErrorKind::PermissionDenied { PERMISSION_HINT } else { "" })]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
    /// No user is named, and the operating system's name for us is unknown.
    #[error("no user is named; add user=… or set PGUSER")]
    NoUser,
}

const QUOTE_HINT: &str = "in values, quote spaces (keyword form) or percent-encode spaces, '@', ':', '/', '?', '=', '&', '#' and '%' (URI)";

const PERMISSION_HINT: &str = " (it must be readable by its owner; a passfile by nobody else: chmod 0600)";

fn places(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { "any file: there is no service file".to_owned() } else { names.join(" or ") }
}

fn named(name: &Option<String>) -> String {
    name.as_ref().map_or(String::new(), |name| format!("{name:?} "))
}
