//! Who owns what was confirmed: the target, or a spool that the target knows of.
//!
//! Hazard: a run on another machine, or after somebody tidied up, would find a slot that no longer has what the
//! target lacks, and go on without it. So a row on the target names the spool from before the first position
//! that rests on it until everything in it is durable on the target; and as long as it stands, the spool must be
//! there and reach as far as the slot says that it was confirmed.

use std::path::{Path, PathBuf};

use super::Spool;
use crate::error::{Error, ErrorKind, Result, describe};
use crate::migrate::config::Spooling;
use crate::migrate::follow;
use crate::migrate::run::Run;
use crate::migrate::state::MigrationId;
use crate::pg::Lsn;
use crate::replication::{free_slot, slot_state};
use crate::spool::{self, Log, Origin, Unusable};
use crate::wire::Session;

const DDL: &str = "CREATE TABLE IF NOT EXISTS pgstream.spool (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    host text NOT NULL,
    directory text NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now())";

/// A larger spool than this is not begun by itself: what is on no backup should not grow for ever.
const BYTES_MAX_DEFAULT: u64 = 256 << 30;

/// A spool as the target knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::migrate) struct Found {
    /// The machine that it was begun on.
    pub(in crate::migrate) host: String,
    /// Where it is there.
    pub(in crate::migrate) directory: PathBuf,
}

impl Found {
    /// Its size, if it is on this machine.
    pub(in crate::migrate) fn bytes(&self) -> Option<u64> {
        self.directory.is_dir().then(|| spool::files_bytes(&self.directory).ok()).flatten()
    }

    /// Whether it is on another machine.
    pub(in crate::migrate) fn is_elsewhere(&self) -> bool {
        !self.directory.exists() && self.host != host()
    }

    /// Removes its files.
    ///
    /// # Errors
    /// `Local` when they cannot be removed.
    pub(in crate::migrate) fn remove(&self) -> Result<()> {
        let doing = format!("remove spooled changes in {} on {}", self.directory.display(), self.host);
        spool::remove(&self.directory).map_err(|error| Error::new(ErrorKind::Local, doing).because(error))
    }
}

/// The spool that the target knows of.
///
/// # Errors
/// `Connect` or `Sql`.
pub(in crate::migrate) async fn found(target: &Session) -> Result<Option<Found>> {
    let failed = |error| Error::from_postgres("look for spooled changes", error);
    let exists = target.query_one("SELECT pg_catalog.to_regclass('pgstream.spool') IS NOT NULL", &[]).await;
    if !exists.map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = target.query_opt("SELECT host, directory FROM pgstream.spool", &[]).await.map_err(failed)?;
    Ok(row.map(|row| Found { host: row.get(0), directory: PathBuf::from(row.get::<_, String>(1)) }))
}

/// Takes up the spool that the target knows of; `None` if there is none, or nothing rests on it.
///
/// # Errors
/// `State` when it is not there as it should be.
pub(in crate::migrate) async fn resume(run: &Run) -> Result<Option<Spool>> {
    let Some(found) = found(&run.target).await? else { return Ok(None) };
    let confirmed = confirmed(run).await?;
    let (origin, mut directory) = (origin(run), found.directory.clone());
    let mut opened = open(&directory, origin, confirmed).await?;
    // Somebody may have brought it here.
    let brought = directory_of(run);
    if matches!(opened, Err(Unusable::Missing)) && brought != directory {
        opened = open(&brought, origin, confirmed).await?;
        directory = brought;
    }
    match opened {
        Ok(log) => {
            if directory != found.directory {
                record(run, &directory).await?;
            }
            let bytes_max = bytes_max(run, &directory).unwrap_or(0);
            tracing::info!(directory = %directory.display(), lsn = %log.synced().end, "spooled changes found");
            Ok(Some(Spool::of(log, directory, bytes_max, origin.protocol_version)))
        }
        Err(error @ Unusable::Disk(_)) => Err(unusable(&directory, error)),
        // It was begun, and the source was told nothing that rests on it.
        Err(_) if confirmed <= follow::position(run).await? => {
            strike(run).await?;
            Ok(None)
        }
        Err(error) => Err(lost(&found, error)),
    }
}

/// Sees to it that the spool, if there is to be one, can be gone on with.
///
/// # Errors
/// `State` when it cannot.
pub(in crate::migrate) async fn whole(run: &Run) -> Result<()> {
    match found(&run.target).await? {
        // Without a slot nothing is to be had from it any more, and that is told elsewhere.
        Some(_) if slot_state(&run.source, &run.id.slot()).await?.is_some() => resume(run).await.map(drop),
        Some(_) | None => Ok(()),
    }
}

/// Begins a spool; `None` where there is no disk for it.
///
/// # Errors
/// `Connect` or `Sql`.
pub(in crate::migrate) async fn begin(run: &Run) -> Result<Option<Spool>> {
    let directory = directory_of(run);
    let bytes_max = match room(run, &directory) {
        Ok(bytes_max) => bytes_max,
        Err(why) => {
            run.stop_spooling();
            run.progress.note(&format!(
                "changes are not spooled: {why}; the source keeps its WAL until they are applied"
            ));
            return Ok(None);
        }
    };
    // A walsender that is about to hear the last positions of an earlier stream would confirm more than we begin with.
    free_slot(&run.source, &run.id.slot()).await?;
    // Everything that commits before this is durable on the target: it was confirmed, and there was no spool. What the
    // target has beyond it may not have reached its disk.
    let base = confirmed(run).await?;
    let (origin, path) = (origin(run), directory.clone());
    let created = tokio::task::spawn_blocking(move || Log::create(&path, origin, base)).await;
    match created.map_err(|cause| Error::new(ErrorKind::Bug, "begin the spool").because(cause))? {
        Ok(log) => {
            // A log that nobody knows of is written over; one that is known of has to be there.
            record(run, &directory).await?;
            run.progress
                .note(&format!("spooling changes in {}, up to {bytes_max} bytes", directory.display()));
            tracing::info!(directory = %directory.display(), lsn = %base, "spool begun");
            Ok(Some(Spool::of(log, directory, bytes_max, origin.protocol_version)))
        }
        Err(error) => {
            let why = describe(&error);
            run.warn(&format!(
                "changes cannot be spooled in {}: {why}; the source keeps its WAL until they are applied",
                directory.display()
            ))
            .await?;
            run.stop_spooling();
            Ok(None)
        }
    }
}

/// Gives ownership back to the target, which has everything; then the files go.
///
/// # Errors
/// `Connect` or `Sql`; then the spool is still the owner, and nothing is lost by that.
pub(in crate::migrate) async fn release(run: &Run, spool: Spool) -> Result<()> {
    strike(run).await?;
    let path = spool.0.path.clone();
    drop(spool);
    remove(run, &path).await;
    tracing::info!("spool emptied");
    Ok(())
}

/// Does away with a spool, whatever is in it: what it was for is over, or begins anew.
///
/// # Errors
/// `Connect` or `Sql`.
pub(in crate::migrate) async fn discard(run: &Run) -> Result<()> {
    if let Some(found) = found(&run.target).await? {
        strike(run).await?;
        remove(run, &found.directory).await;
    }
    remove(run, &directory_of(run)).await;
    Ok(())
}

/// Names the spool that stays behind when a run is interrupted: the next one needs it.
pub(in crate::migrate) async fn tell_what_stays(run: &Run) {
    if let Ok(Some(Found { host, directory })) = found(&run.target).await {
        run.progress.note(&format!(
            "changes stay spooled on {host} in {}: the next run goes on from them",
            directory.display()
        ));
    }
}

/// Removes the files of this machine's spool, when the target cannot be asked.
pub(in crate::migrate) async fn remove_files(run: &Run) {
    remove(run, &directory_of(run)).await;
}

/// What keeps the spool from being read.
pub(super) fn unusable(path: &Path, error: Unusable) -> Error {
    match error {
        Unusable::Disk(error) => {
            Error::new(ErrorKind::Local, format!("read spooled changes in {}", path.display())).because(error)
        }
        error => lost(&Found { host: host(), directory: path.to_owned() }, error),
    }
}

fn lost(found: &Found, error: Unusable) -> Error {
    let Found { host, directory } = found;
    let shown = directory.display();
    Error::new(ErrorKind::State, format!("go on from the changes that were spooled on {host} in {shown}"))
        .hint(format!(
            "They are on no other disk: the source was told that they are safe there. Run this again on {host}; or \
             bring that directory to this machine, into a directory that --work-dir names. If it is lost, the copy \
             has to begin anew: empty the target database, remove what is left with `pgstream cleanup`, and start."
        ))
        .because(error)
}

async fn open(path: &Path, origin: Origin, confirmed: Lsn) -> Result<Result<Log, Unusable>> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Log::open(&path, origin, confirmed)).await;
    opened.map_err(|cause| Error::new(ErrorKind::Bug, "open the spool").because(cause))
}

/// What the source was told.
async fn confirmed(run: &Run) -> Result<Lsn> {
    let slot = slot_state(&run.source, &run.id.slot()).await?;
    Ok(slot.and_then(|slot| slot.confirmed_flush).unwrap_or(Lsn::ZERO))
}

fn origin(run: &Run) -> Origin {
    let mut migration = [b' '; 8];
    for (byte, id) in migration.iter_mut().zip(run.id.as_str().bytes()) {
        *byte = id;
    }
    Origin {
        system: run.source_system,
        migration,
        protocol_version: run.source_version.pgoutput_version(),
        format: super::receive::FORMAT,
    }
}

async fn record(run: &Run, directory: &Path) -> Result<()> {
    let failed = |error| Error::from_postgres("note where changes are spooled", error);
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    run.target.batch_execute(DDL).await.map_err(failed)?;
    run.target
        .execute(
            "INSERT INTO pgstream.spool (host, directory) VALUES ($1, $2)
             ON CONFLICT (only_row) DO UPDATE SET host = EXCLUDED.host, directory = EXCLUDED.directory",
            &[&host(), &directory.to_string_lossy().as_ref()],
        )
        .await
        .map(drop)
        .map_err(failed)
}

/// Strikes the spool off: the target owns everything that was confirmed.
async fn strike(run: &Run) -> Result<()> {
    run.target
        .batch_execute("SET client_min_messages = warning; DROP TABLE IF EXISTS pgstream.spool")
        .await
        .map_err(|error| Error::from_postgres("note that no changes are spooled", error))
}

async fn remove(run: &Run, path: &Path) {
    run.metrics.spool_bytes(0);
    let (shown, path) = (path.display().to_string(), path.to_owned());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || spool::remove(&path)).await {
        tracing::warn!(directory = shown, error = %error, "spooled changes could not be removed");
    }
}

/// The folder of this migration's spool on this machine.
fn directory_of(run: &Run) -> PathBuf {
    directory(run.options.work_dir.as_deref(), &run.id)
}

fn directory(work_dir: Option<&Path>, id: &MigrationId) -> PathBuf {
    // Not where temporary files go: that is emptied, or memory, when the machine starts.
    let lasting = Path::new("/var/tmp");
    let parent = match work_dir {
        Some(directory) => directory.to_owned(),
        None if lasting.is_dir() => lasting.to_owned(),
        None => std::env::temp_dir(),
    };
    parent.join(format!("pgstream_{}_spool", id.as_str()))
}

/// How much may be spooled there, or why nothing.
fn room(run: &Run, directory: &Path) -> Result<u64, String> {
    let parent = directory.parent().unwrap_or(directory);
    let volume = spool::volume(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    if volume.is_ephemeral && run.options.work_dir.is_none() {
        return Err(format!(
            "{} is in memory or in a container's own layer, and may not outlive this machine; name a lasting directory with --work-dir",
            parent.display()
        ));
    }
    bytes_max(run, parent).ok_or_else(|| "it is not wanted".to_owned())
}

fn bytes_max(run: &Run, path: &Path) -> Option<u64> {
    match run.options.spooling {
        Spooling::Off => None,
        Spooling::On { bytes_max: Some(bytes) } => Some(bytes),
        Spooling::On { bytes_max: None } => {
            let free = spool::volume(path).map_or(0, |volume| volume.free_bytes);
            Some(BYTES_MAX_DEFAULT.min(free / 2))
        }
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
