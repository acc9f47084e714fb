//! The stage of a demo: a source that lives, and an empty target.

use crate::demo::cluster::{Cluster, ClusterOptions};
use crate::demo::seed::{SeedOptions, seed};
use crate::demo::workload::{Workload, WorkloadOptions};
use crate::error::{Error, Result};

/// What the stage is set with.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// The source's server.
    pub source: ClusterOptions,
    /// The target's server; the same or a newer major.
    pub target: ClusterOptions,
    /// The source's one database beside `postgres`.
    pub dbname: String,
    /// What is in it.
    pub seed: SeedOptions,
}

impl Default for StageOptions {
    fn default() -> StageOptions {
        StageOptions {
            source: ClusterOptions::default(),
            target: ClusterOptions::default(),
            dbname: "shop".to_owned(),
            seed: SeedOptions::default(),
        }
    }
}

/// Two clusters; the source holds a seeded database, the target none. All of it goes when this drops.
#[derive(Debug)]
pub struct Stage {
    /// Where the data is.
    pub source: Cluster,
    /// Where it shall go.
    pub target: Cluster,
    /// The database.
    pub dbname: String,
    seed: SeedOptions,
}

impl Stage {
    /// Starts both servers and seeds the source.
    ///
    /// # Errors
    /// As [`Cluster::start`] and [`seed`].
    pub async fn set(options: StageOptions) -> Result<Stage> {
        let StageOptions { source, target, dbname, seed: options } = options;
        let (source, target) = tokio::try_join!(Cluster::start(source), Cluster::start(target))?;
        source.create_database(&dbname).await?;
        seed(&source.session(&dbname).await?, options).await?;
        Ok(Stage { source, target, dbname, seed: options })
    }

    /// Refreshes the source's materialized views, as its owner's nightly job would: views on both ends are
    /// the same only if both were filled from the same rows.
    ///
    /// # Errors
    /// As the server has it.
    pub async fn refresh_views(&self) -> Result<()> {
        let session = self.source.session(&self.dbname).await?;
        let refresh = "REFRESH MATERIALIZED VIEW shop.z_totals; REFRESH MATERIALIZED VIEW shop.a_summary";
        let refreshed = session.batch_execute(refresh).await;
        refreshed.map_err(|error| Error::from_postgres("refresh the source's materialized views", error))
    }

    /// Lets writers loose on the source.
    ///
    /// # Errors
    /// As [`Workload::start`].
    pub async fn start_workload(&self, options: WorkloadOptions) -> Result<Workload> {
        let options = WorkloadOptions { rows: self.seed.rows, ..options };
        Workload::start(self.source.conninfo(&self.dbname), &options).await
    }
}
