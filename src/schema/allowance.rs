//! What each of several builds at once may use of the target: memory and workers, by what its settings tell.
//!
//! Hazard: no SQL tells how much memory a server has, and one whose builds take more than that is killed by its
//! kernel, with everything it serves (P102). `maintenance_work_mem` is meant for one at a time, and we build
//! several. So their memory together stays within what the server is known to use anyway.

use crate::error::{Error, Result};
use crate::wire::Session;

/// What a target's settings tell of its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetSize {
    /// `maintenance_work_mem`, in bytes.
    pub maintenance_work_mem: u64,
    /// `shared_buffers`, in bytes.
    pub shared_buffers: u64,
    /// `effective_cache_size`, in bytes, if somebody has set it: the default says nothing of the machine.
    pub effective_cache_size: Option<u64>,
    /// Parallel index builds, where the server has them (11+).
    pub parallel: Option<ParallelSize>,
}

/// How many workers a server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParallelSize {
    /// For one build: `max_parallel_maintenance_workers`.
    pub of_build: u32,
    /// In all: `max_parallel_workers`, and no more than `max_worker_processes`.
    pub of_server: u32,
}

/// What one build may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// `maintenance_work_mem`, in bytes. All workers of a build share it.
    pub memory_bytes: u64,
    /// `max_parallel_maintenance_workers`, where the server has it.
    pub parallel_workers: Option<u32>,
}

/// A build gains little from more, and a sort of that size fills it (bytes).
const MEMORY_MAX: u64 = 1 << 30;
/// What every server may be asked for: PostgreSQL's default, which it gives to three vacuums at once (bytes).
const MEMORY_MIN: u64 = 64 << 20;
/// More workers than this wait for one leader.
const WORKERS_MAX: u32 = 8;

impl TargetSize {
    /// Asks the target.
    ///
    /// # Errors
    /// As [`Error::from_postgres`].
    pub async fn read(target: &Session) -> Result<TargetSize> {
        const SQL: &str = "
            SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')),
                   pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')),
                   (SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting(name)) FROM pg_catalog.pg_settings
                     WHERE name = 'effective_cache_size' AND source <> 'default'),
                   pg_catalog.current_setting('max_parallel_maintenance_workers', true)::pg_catalog.int4,
                   least(pg_catalog.current_setting('max_parallel_workers', true)::pg_catalog.int4,
                         pg_catalog.current_setting('max_worker_processes', true)::pg_catalog.int4)";
        let row = target
            .query_one(SQL, &[])
            .await
            .map_err(|error| Error::from_postgres("read how much the target may build with", error))?;
        let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let count = |at: usize| row.get::<_, Option<i32>>(at).and_then(|count| u32::try_from(count).ok());
        Ok(TargetSize {
            maintenance_work_mem: bytes(row.get(0)),
            shared_buffers: bytes(row.get(1)),
            effective_cache_size: row.get::<_, Option<i64>>(2).map(bytes),
            parallel: count(3)
                .zip(count(4))
                .map(|(of_build, of_server)| ParallelSize { of_build, of_server }),
        })
    }

    /// What each of `builds` at once may use.
    ///
    /// Together they take no more memory than the server gives its cache (commonly a quarter of the machine), or a
    /// quarter of what it believes to be cached, or what it allows one build; each at most a gigabyte unless the
    /// server allows itself more, and at least what no server is hurt by.
    #[must_use]
    pub fn share(self, builds: usize) -> Allowance {
        let builds = u64::try_from(builds.max(1)).unwrap_or(u64::MAX);
        let own = self.maintenance_work_mem;
        let all = self.shared_buffers.max(self.effective_cache_size.unwrap_or(0) / 4).max(own);
        let memory_bytes = (all / builds).min(MEMORY_MAX.max(own)).max(MEMORY_MIN.min(own));
        let workers = |parallel: ParallelSize| match parallel.of_build {
            // Somebody does not want them.
            0 => 0,
            _ => {
                let share = u64::from(parallel.of_server) / builds;
                u32::try_from(share).unwrap_or(WORKERS_MAX).min(WORKERS_MAX)
            }
        };
        Allowance { memory_bytes, parallel_workers: self.parallel.map(workers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;

    fn size(maintenance_work_mem: u64, shared_buffers: u64, effective_cache_size: Option<u64>) -> TargetSize {
        let parallel = Some(ParallelSize { of_build: 2, of_server: 8 });
        TargetSize { maintenance_work_mem, shared_buffers, effective_cache_size, parallel }
    }

    #[test]
    fn a_server_as_it_comes_is_asked_for_what_it_would_give_anyway() {
        let allowance = size(64 * MB, 128 * MB, None).share(4);
        assert_eq!(allowance, Allowance { memory_bytes: 64 * MB, parallel_workers: Some(2) });
    }

    #[test]
    fn memory_together_stays_within_what_the_server_uses_anyway() {
        let memory = |size: TargetSize, builds| size.share(builds).memory_bytes;
        assert_eq!(memory(size(64 * MB, 2 * GB, None), 4), 512 * MB);
        assert_eq!(memory(size(64 * MB, 8 * GB, Some(24 * GB)), 4), GB);
        assert_eq!(memory(size(64 * MB, 128 * MB, Some(6 * GB)), 4), 384 * MB);
        // What is set for one build is for all of ours, not for each.
        assert_eq!(memory(size(2 * GB, GB, None), 4), 512 * MB);
        assert_eq!(memory(size(2 * GB, 16 * GB, None), 4), 2 * GB);
        // A small server stays as small as it was made.
        assert_eq!(memory(size(16 * MB, 32 * MB, None), 4), 16 * MB);
        assert_eq!(memory(size(64 * MB, GB, None), 256), 64 * MB);
    }

    #[test]
    fn workers_are_shared_and_stay_off_where_they_are_off() {
        let workers = |of_build, of_server, builds| {
            let parallel = Some(ParallelSize { of_build, of_server });
            TargetSize { parallel, ..size(64 * MB, GB, None) }.share(builds).parallel_workers
        };
        assert_eq!(workers(2, 8, 8), Some(1));
        assert_eq!(workers(2, 32, 4), Some(8));
        assert_eq!(workers(2, 64, 1), Some(8));
        assert_eq!(workers(2, 2, 4), Some(0));
        assert_eq!(workers(0, 32, 4), Some(0));
        let old = TargetSize { parallel: None, ..size(64 * MB, GB, None) };
        assert_eq!(old.share(4).parallel_workers, None);
    }
}
