//! Environments for tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Conninfo, ConninfoError, Environment, Files};

/// Files by path; one whose text begins with `open:` may be read by everyone.
struct Held(BTreeMap<PathBuf, String>);

impl Files for Held {
    fn exists(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_private(&self, path: &Path) -> io::Result<String> {
        let text = self.read(path)?;
        if text.starts_with("open:") { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(text) }
    }
}

/// User `me` at home in `/home/me`, with these variables and files.
pub(super) fn environment(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let files = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    Environment {
        variables: variables.iter().map(owned).collect(),
        home: Some(PathBuf::from("/home/me")),
        user: Some("me".to_owned()),
        files: Box::new(Held(files)),
    }
}

/// The string alone, in an environment that adds nothing.
pub(super) fn resolve(text: &str) -> Result<Conninfo, ConninfoError> {
    Conninfo::resolve(text, &environment(&[], &[]))
}
