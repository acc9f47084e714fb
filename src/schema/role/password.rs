//! Passwords that nobody has chosen yet.
//!
//! Hazard: a role that may log in and has no password is locked out; one with a guessable password is open to all
//! (P68). So a placeholder is random, is known to whoever reads the file or the result, and to nobody else: the
//! server gets its verifier, which is what its logs then hold.

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::pg::Secret;

/// A new one: 128 random bits, behind a word that tells what it is.
pub(super) fn placeholder() -> Result<Secret> {
    let mut random = [0; 16];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut random).map_err(|_| {
        Error::new(ErrorKind::Local, "invent a password").because("the system gives no random bytes")
    })?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::new(format!("placeholder_{digits}")))
}

/// What a server keeps of a password.
pub(super) fn verifier(password: &Secret) -> Secret {
    Secret::new(postgres_protocol::password::scram_sha_256(password.reveal().as_bytes()))
}

/// Adds passwords to a file in the form of a passfile (docs: `libpq-pgpass`), in place of those that it has for
/// the same roles. The file is made with mode 0600, and is whole at any moment.
///
/// # Errors
/// `Usage` if something else than a file has that name; `Local` if it cannot be written.
pub(super) fn save(path: &Path, passwords: &[(&str, &Secret)]) -> Result<()> {
    let doing = || format!("write the passwords of roles to {}", path.display());
    let failed = |error: std::io::Error| Error::new(ErrorKind::Local, doing()).because(error);
    let before = match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(Error::new(ErrorKind::Usage, doing()).hint("Name a file with `--role-passwords`."));
        }
        Ok(_) => fs::read_to_string(path).map_err(failed)?,
        Err(error) if error.kind() == IoErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // tempfile creates it with mode 0600.
    let mut file = tempfile::Builder::new().prefix(".pgstream-").tempfile_in(folder).map_err(failed)?;
    file.write_all(merged(&before, passwords).as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn merged(before: &str, passwords: &[(&str, &Secret)]) -> String {
    let starts: Vec<String> = passwords.iter().map(|(role, _)| format!("*:*:*:{}:", escaped(role))).collect();
    let kept = before.lines().filter(|line| !starts.iter().any(|start| line.starts_with(start.as_str())));
    let mut text: String = kept.map(|line| format!("{line}\n")).collect();
    for (start, (_, password)) in starts.iter().zip(passwords) {
        text += &format!("{start}{}\n", escaped(password.reveal()));
    }
    text
}

fn escaped(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn placeholders_are_random_and_verifiable() {
        let (one, other) = (placeholder().unwrap(), placeholder().unwrap());
        assert_ne!(one, other);
        assert!(verifier(&one).reveal().starts_with("SCRAM-SHA-256$4096:"));
        assert!(!verifier(&one).reveal().contains(one.reveal()));
    }

    #[test]
    fn a_file_keeps_what_an_earlier_run_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwords");
        let secret = |text: &str| Secret::new(text);
        save(&path, &[("a:b", &secret("one")), ("c", &secret("two"))]).unwrap();
        save(&path, &[("c", &secret("three")), ("d", &secret("four"))]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "*:*:*:a\\:b:one\n*:*:*:c:three\n*:*:*:d:four\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = save(folder.path(), &[("a", &Secret::new("hidden"))]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
