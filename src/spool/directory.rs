//! The folder that a log lives in: its files, their order, and the room that is left.
//!
//! Hazard: a file that is created, or removed, is so only once its directory was synced. And a log with its
//! first files gone looks like one that was trimmed: what was trimmed is therefore written down first.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file whose lock says that a log is open.
const LOCK: &str = "lock";
/// The file that names the oldest segment that is still needed.
const OLDEST: &str = "oldest";
const SUFFIX: &str = "spool";
/// How long a log that another task of ours is about to let go of is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(60);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A folder of segments.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes it, for its owner alone.
    pub(super) fn create(path: &Path) -> io::Result<Directory> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(Directory(path.to_owned()))
    }

    pub(super) fn at(path: &Path) -> Directory {
        Directory(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Keeps others out for as long as the file lives.
    pub(super) fn lock(&self) -> io::Result<File> {
        let file = private().create(true).truncate(false).write(true).open(self.0.join(LOCK))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process has it open")),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    pub(super) fn segment(&self, sequence: u64) -> PathBuf {
        self.0.join(format!("{sequence:010}.{SUFFIX}"))
    }

    /// Makes a segment's file; one of that number that a crash left is written over.
    pub(super) fn create_segment(&self, sequence: u64) -> io::Result<File> {
        private().create(true).truncate(true).read(true).write(true).open(self.segment(sequence))
    }

    pub(super) fn open_segment(&self, sequence: u64) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.segment(sequence))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    /// The segments there are and their lengths, in order.
    pub(super) fn segments(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let path = entry.path();
            let sequence = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let (Some(sequence), true) =
                (sequence, path.extension().is_some_and(|suffix| suffix == SUFFIX))
            {
                found.push((sequence, entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The oldest segment that is needed; 1 as long as none was trimmed.
    pub(super) fn oldest(&self) -> io::Result<u64> {
        match fs::read_to_string(self.0.join(OLDEST)) {
            Ok(text) => text.trim().parse().map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
            Err(error) => Err(error),
        }
    }

    /// Begins anew: nothing was trimmed.
    pub(super) fn forget_trimming(&self) -> io::Result<()> {
        match fs::remove_file(self.0.join(OLDEST)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Removes the segments before `oldest`, and returns how many bytes they were.
    pub(super) fn trim(&self, oldest: u64) -> io::Result<u64> {
        let note = self.0.join(format!("{OLDEST}.new"));
        let mut file = private().create(true).truncate(true).write(true).open(&note)?;
        file.write_all(oldest.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&note, self.0.join(OLDEST))?;
        self.sync()?;
        let mut freed = 0;
        for (sequence, bytes) in self.segments()?.into_iter().filter(|(sequence, _)| *sequence < oldest) {
            fs::remove_file(self.segment(sequence))?;
            freed += bytes;
        }
        Ok(freed)
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Bytes of the segments in a folder; zero if there is none.
///
/// # Errors
/// What the disk reports.
pub fn files_bytes(path: &Path) -> io::Result<u64> {
    match Directory::at(path).segments() {
        Ok(segments) => Ok(segments.iter().map(|(_, bytes)| bytes).sum()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Removes a log, if there is one.
///
/// # Errors
/// What the disk reports.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The file system that a folder lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Bytes that we may still write.
    pub free_bytes: u64,
    /// Whether it ends with the machine's, or the container's, present life: memory, or an overlay.
    pub is_ephemeral: bool,
}

/// Looks at the file system of a folder that exists.
///
/// # Errors
/// What the system reports.
pub fn volume(path: &Path) -> io::Result<Volume> {
    let facts = rustix::fs::statvfs(path)?;
    Ok(Volume {
        free_bytes: facts.f_bavail.saturating_mul(facts.f_frsize),
        is_ephemeral: is_ephemeral(path)?,
    })
}

#[cfg(target_os = "linux")]
fn is_ephemeral(path: &Path) -> io::Result<bool> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    const OVERLAY: u64 = 0x794c_7630;
    let kind = rustix::fs::statfs(path)?.f_type;
    // The type's own type differs between machines; its numbers have 32 bits.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    let kind = kind as u64 & 0xFFFF_FFFF;
    Ok([TMPFS, RAMFS, OVERLAY].contains(&kind))
}

#[cfg(not(target_os = "linux"))]
fn is_ephemeral(_: &Path) -> io::Result<bool> {
    Ok(false)
}
