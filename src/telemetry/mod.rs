//! How a run is watched: metrics and health over HTTP, progress and logs on stderr.
//!
//! Hazard: what is written here is read by more people than may read the data. No password and no column
//! value enters a metric, a progress line or a log; labels come from closed sets; and watching costs
//! nothing per row.
//!
//! A conductor holds three cheap clones: [`DatabaseMetrics`], [`Health`] and [`Progress`]. Without an
//! [`Exporter`] the first is [`Metrics::off`] and the second has no reader.

mod bars;
mod building;
mod copying;
mod exporter;
mod health;
mod held_up;
mod label;
mod log;
mod metrics;
mod name;
mod progress;
mod tally;
pub mod text;

pub use building::RunningBuild;
pub use exporter::Exporter;
pub use health::{Health, Life, Readiness};
pub use held_up::HeldUp;
pub use label::{BuildStep, ChangeKind, FallbackReason, Obstacle, Phase, Stage, TableState};
pub use log::{LogFormat, LogOptions, MigrationId, Verbosity, init as init_log};
pub use metrics::{ApplyGroup, DatabaseMetrics, Metrics};
pub use name::{ALL as METRICS, Kind as MetricKind, Metric};
pub use progress::{Display, Progress};
pub use tally::{CopiedTable, FollowLine};

pub use crate::error::Side;
