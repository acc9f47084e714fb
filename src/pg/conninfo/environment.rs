//! What surrounds a connection string: variables, files, who we are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The values that a connection string is completed from, so that completing it does no I/O of its own.
///
/// Not `Debug`: the variables may hold a password.
pub struct Environment {
    /// The environment variables; only those that begin with `PG` are looked at.
    pub variables: BTreeMap<String, String>,
    /// The home folder.
    pub home: Option<PathBuf>,
    /// The operating system's name for who we are: libpq's default user.
    pub user: Option<String>,
    /// The files that a connection string may lead to.
    pub files: Box<dyn Files>,
}

/// Files, as the process or a test sees them.
pub trait Files {
    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool;

    /// Reads a service file.
    ///
    /// # Errors
    /// As reading a file does.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Reads a file that holds secrets.
    ///
    /// # Errors
    /// As reading a file does, and `PermissionDenied` if anyone but its owner may read it.
    fn read_private(&self, path: &Path) -> io::Result<String>;
}
