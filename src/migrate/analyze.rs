//! Collects statistics on the target, for a database without them is slow on its first morning (P83).
//!
//! Hazard: ANALYZE computes what expression indexes hold, and ends at the first table whose function fails: one
//! that relies on a search_path, for instance (P58). Missing statistics make the target slow, not wrong, so
//! they are named in the result and end nothing.
//!
//! The application waits for this. So large tables are analyzed side by side, small ones many in one statement, and
//! the system's own are left to autovacuum.

use futures_util::future::try_join_all;

use super::cutover::source_search_path;
use super::run::Run;
use crate::catalog::{self, Analyzable};
use crate::error::{Error, Result, describe};
use crate::schema::Flush;
use crate::wire::{Session, SessionSettings};

/// Tables of one statement, which keeps no lock of one when it goes on to the next (P88).
const TOGETHER_MAX: usize = 64;
/// A larger one goes by itself (blocks).
const SMALL_BLOCKS: u32 = 1000;
/// The first major that analyzes several tables in one statement.
const SEVERAL_SINCE: u32 = 11;

/// Analyzes everything that it can.
pub(super) async fn analyze(run: &Run) -> Result<()> {
    run.progress.note("collecting statistics on the target");
    let together = if run.target_version.major() < SEVERAL_SINCE { 1 } else { TOGETHER_MAX };
    let all = catalog::read_analyzable(&run.target).await?;
    let jobs = run.options.copy_jobs.get();
    let (sender, queue) = crossbeam_channel::unbounded();
    for some in shares(all, together, jobs) {
        sender.send(some).expect("the receiver is held here");
    }
    drop(sender);
    let settings = SessionSettings::role("analyze")
        .set("client_min_messages", "error")
        .set("search_path", source_search_path(&run.source).await?);
    // Each table is a transaction, and its statistics are on the disk with the phase that is entered after them.
    let settings = match Flush::of(&run.target_may) {
        Flush::AtCommit => settings,
        Flush::WithTheNote => settings.set("synchronous_commit", "off"),
    };
    let workers = (0..jobs.min(queue.len())).map(|_| work(run, &queue, &settings));
    try_join_all(workers).await.map(drop)
}

/// The largest first; small ones together, as long as there is enough for everybody.
fn shares(all: Vec<Analyzable>, together: usize, jobs: usize) -> Vec<Vec<Analyzable>> {
    let (large, small): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.blocks > SMALL_BLOCKS);
    let each = small.len().div_ceil(jobs.max(1)).clamp(1, together);
    large.into_iter().map(|one| vec![one]).chain(small.chunks(each).map(<[Analyzable]>::to_vec)).collect()
}

async fn work(
    run: &Run,
    queue: &crossbeam_channel::Receiver<Vec<Analyzable>>,
    settings: &SessionSettings,
) -> Result<()> {
    let session = Session::connect(&run.options.target, settings).await?;
    while let Ok(some) = queue.try_recv() {
        let names: Vec<String> = some.iter().map(|one| one.name.to_string()).collect();
        // Alone in its query: several statements would be one transaction, with all locks until its end.
        let Err(error) = session.batch_execute(&format!("ANALYZE {}", names.join(", "))).await else {
            continue;
        };
        lost(&session, error, "analyze the target")?;
        for one in some {
            let Err(error) = session.batch_execute(&format!("ANALYZE {}", one.name)).await else { continue };
            let error = lost(&session, error, &format!("analyze {}", one.name.plain()))?;
            run.warn(&format!(
                "{}: it has no statistics on the target; if a function of its indexes relies on search_path, \
                 ALTER FUNCTION … SET search_path, then ANALYZE",
                describe(&error)
            ))
            .await?;
        }
    }
    Ok(())
}

/// The error, unless it is the session's end.
fn lost(session: &Session, error: tokio_postgres::Error, doing: &str) -> Result<Error> {
    let error = Error::from_postgres(doing, error);
    if session.is_closed() { Err(error) } else { Ok(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::QualifiedName;

    #[test]
    fn large_tables_go_alone_and_small_ones_are_dealt_out() {
        let all = |blocks: &[u32]| {
            blocks.iter().map(|&blocks| Analyzable { name: QualifiedName::new("s", "t"), blocks }).collect()
        };
        let sizes = |shares: Vec<Vec<Analyzable>>| shares.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(shares(all(&[9000, 2000, 5, 5, 5, 0]), 64, 2)), [1, 1, 2, 2]);
        assert_eq!(sizes(shares(all(&[5, 5]), 64, 4)), [1, 1]);
        assert_eq!(sizes(shares(all(&[3; 5]), 2, 1)), [2, 2, 1]);
        assert!(shares(Vec::new(), 64, 4).is_empty());
    }
}
