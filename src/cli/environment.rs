//! What surrounds our process: variables, home, user, files.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::pg::{Environment, Files};

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn from_process() -> Environment {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables = env::vars_os().filter_map(text).filter(|(name, _)| name.starts_with("PG")).collect();
        let home = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Environment { variables, home, user: user_name(), files: Box::new(ProcessFiles) }
    }
}

/// The name of the user we run as, not of the one who once logged in: `sudo` keeps `USER` in places.
fn user_name() -> Option<String> {
    let uid = fs::metadata("/proc/self").ok().map(|process| process.uid());
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = uid.and_then(|uid| name_of(uid, &passwd).map(str::to_owned));
    known.or_else(|| env::var("LOGNAME").or_else(|_| env::var("USER")).ok()).filter(|name| !name.is_empty())
}

/// The name that `/etc/passwd` gives a user id.
fn name_of(uid: u32, passwd: &str) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        (id == uid).then_some(name)
    })
}

struct ProcessFiles;

impl Files for ProcessFiles {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn read_private(&self, path: &Path) -> io::Result<String> {
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        fs::read_to_string(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_users_by_their_id() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n+nis\npostgres:x:101:104::/var/lib/postgresql:/bin/bash\n";
        assert_eq!(name_of(101, passwd), Some("postgres"));
        assert_eq!(name_of(102, passwd), None);
    }

    #[test]
    fn secrets_are_read_only_from_files_that_are_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passfile");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        for (mode, readable) in [(0o600, true), (0o640, false), (0o604, false), (0o400, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = ProcessFiles.read_private(&path).map_err(|error| error.kind());
            let expected = if readable {
                Ok("*:*:*:*:secret\n".to_owned())
            } else {
                Err(io::ErrorKind::PermissionDenied)
            };
            assert_eq!(read, expected, "{mode:o}");
        }
    }
}
