//! Files for the tools: read by those that we start, found by nobody, gone with us however we end.
//!
//! Hazard: a passfile and definitions hold secrets (P94), and a process that is killed tidies nothing up. So these
//! files have no name from the first moment, and the tools open them as a descriptor of ours, by `/proc`. Where that
//! is not to be had they have a name, mode 0600, and go when they are dropped.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file that only its owner may read, as long as this lives.
#[derive(Debug)]
pub struct PrivateFile {
    path: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Nameless(File),
    Named(NamedTempFile),
}

impl PrivateFile {
    /// An empty file on the disk that `folder` is on.
    ///
    /// # Errors
    /// The folder's: it is not there, is full, or may not be written to.
    pub fn create_in(folder: &Path) -> io::Result<PrivateFile> {
        let file = tempfile::tempfile_in(folder)?;
        // The umask alone would let others in.
        file.set_permissions(Permissions::from_mode(0o600))?;
        // Not `self`: that would be the tool.
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        match is_at(&file, &path)? {
            true => Ok(PrivateFile { path, content: Content::Nameless(file) }),
            false => PrivateFile::create_named_in(folder),
        }
    }

    fn create_named_in(folder: &Path) -> io::Result<PrivateFile> {
        let file = tempfile::Builder::new().prefix("pgstream-").tempfile_in(folder)?;
        Ok(PrivateFile { path: file.path().to_owned(), content: Content::Named(file) })
    }

    /// A file for a moment, with this content, among the system's temporary ones.
    pub(super) fn holding(content: &[u8]) -> io::Result<PrivateFile> {
        let mut file = PrivateFile::create_in(&std::env::temp_dir())?;
        file.write_all(content)?;
        Ok(file)
    }

    /// What a tool opens it by. Each opening begins at the first byte.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// In another namespace than ours `/proc` may lack us, or show a stranger.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    let found = File::open(path).and_then(|found| found.metadata());
    Ok(found.is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())))
}

impl Write for PrivateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.content {
            Content::Nameless(file) => file.write(bytes),
            Content::Named(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.content {
            Content::Nameless(file) => file.flush(),
            Content::Named(file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn is_empty(folder: &Path) -> bool {
        std::fs::read_dir(folder).unwrap().next().is_none()
    }

    /// What another program reads there.
    fn read_elsewhere(file: &PrivateFile) -> Vec<u8> {
        let read = Command::new("cat").arg(file.path()).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        read.stdout
    }

    #[test]
    fn a_tool_reads_and_writes_what_nobody_finds() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = PrivateFile::create_in(folder.path()).unwrap();
        file.write_all(b"secret").unwrap();
        assert!(is_empty(folder.path()), "nothing is left when we are killed now");
        assert_eq!((read_elsewhere(&file), read_elsewhere(&file)), (b"secret".to_vec(), b"secret".to_vec()));
        let written =
            Command::new("sh").args(["-c", r#"printf more > "$1""#, "sh"]).arg(file.path()).status();
        assert!(written.unwrap().success());
        assert_eq!(std::fs::read(file.path()).unwrap(), b"more");
    }

    #[test]
    fn it_is_its_owners_alone_whichever_way_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        for make in [PrivateFile::create_in, PrivateFile::create_named_in] {
            let file = make(folder.path()).unwrap();
            assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
            let path = file.path().to_owned();
            drop(file);
            assert!(std::fs::metadata(&path).is_err() && is_empty(folder.path()));
        }
    }
}
