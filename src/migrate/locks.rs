//! Says who holds what we wait for on the target.
//!
//! Hazard: our statements there wait for a lock as long as it takes (a lock_timeout would only begin the same work
//! again), and a wait looks like a slow server. Who holds the lock can be asked for, so it is named (P99).

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use super::run::Run;
use crate::error::{Error, Result, describe};
use crate::telemetry::Obstacle;
use crate::wire::Session;

/// Between two looks; who waits at two of them one after the other is held up.
const LOOK: Duration = Duration::from_secs(2);

/// Sessions of others that ours wait for, one line for each pair; our own that wait for each other are none.
const WAITS: &str = "
SELECT w.pid,
       concat(w.application_name, ' waits for ', coalesce(
           (SELECT string_agg(DISTINCT l.relation::pg_catalog.regclass::text, ', ') FROM pg_catalog.pg_locks AS l
             WHERE l.pid = w.pid AND NOT l.granted AND l.relation IS NOT NULL), 'a row'), ', which ',
           CASE WHEN by.pid = 0 THEN 'a prepared transaction' ELSE
               concat('pid ', by.pid, ' (', concat_ws(', ', nullif(b.application_name, ''), b.usename, b.state,
                   'in a transaction for ' || extract(epoch FROM pg_catalog.clock_timestamp() - b.xact_start)::int || ' s'),
               ')') END,
           ' holds')
  FROM pg_catalog.pg_stat_activity AS w
 CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) AS by (pid)
  LEFT JOIN pg_catalog.pg_stat_activity AS b ON b.pid = by.pid
 WHERE w.datname = pg_catalog.current_database() AND w.wait_event_type = 'Lock'
   AND w.application_name LIKE 'pgstream %' AND coalesce(b.application_name, '') NOT LIKE 'pgstream %'
 ORDER BY w.pid, by.pid";

/// Looks for as long as it is polled; `at_work` says that nothing can be waiting, at no cost.
pub(super) async fn look_out(run: &Run, mut at_work: impl FnMut() -> bool) -> Infallible {
    let mut before = HashSet::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let waits = match at_work() {
            true => Vec::new(),
            false => match waits(&run.target).await {
                Ok(waits) => waits,
                // Something that is like PostgreSQL only, or a session that is about to be missed elsewhere.
                Err(error) => {
                    tracing::debug!(error = %describe(&error), "who holds locks is not told");
                    return std::future::pending().await;
                }
            },
        };
        match waits.iter().find(|(pid, _)| before.contains(pid)) {
            Some((_, why)) => drop(run.held_up.by(Obstacle::Lock, why)),
            None if waits.is_empty() => run.held_up.over(Obstacle::Lock),
            None => {}
        }
        before = waits.into_iter().map(|(pid, _)| pid).collect();
    }
}

async fn waits(target: &Session) -> Result<Vec<(i32, String)>> {
    let failed = |error| Error::from_postgres("ask who holds locks on the target", error);
    let rows = target.query(WAITS, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Runs `work` with the look-out beside it.
pub(super) async fn beside<T>(run: &Run, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => {
            run.held_up.over(Obstacle::Lock);
            done
        }
        never = look_out(run, || false) => match never {},
    }
}
