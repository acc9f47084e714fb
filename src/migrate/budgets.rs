//! What the databases of one command share: budgets of connections, and how fast all of them may copy.
//!
//! Hazard: hundreds of databases that all open their copy connections at once leave the application none
//! (P03). Rows are copied and indexes built on one budget each, and only some databases are on their way to a
//! full target at a time; those that have arrived there follow all together, for their WAL waits for nobody.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use super::config::Options;
use super::throttle::Brake;
use crate::bulk::{Budget, Turn};

/// Handles for one database; a clone is a reference.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Connections that copy rows.
    pub copies: Budget,
    /// Connections that build indexes and constraints.
    pub builds: Budget,
    pub(super) brake: Arc<Brake>,
    stage: Arc<Mutex<Option<Turn>>>,
}

impl Budgets {
    /// The budgets that the options speak of, all for one database. For several, each gets a clone by
    /// [`Budgets::with_stage`].
    #[must_use]
    pub fn new(options: &Options) -> Budgets {
        Budgets {
            copies: Budget::new(options.copy_jobs),
            builds: Budget::new(options.index_jobs),
            brake: Arc::new(Brake::new(options.copy_rate)),
            stage: Arc::default(),
        }
    }

    /// The same budgets for a database that has waited for its turn to be defined and copied.
    #[must_use]
    pub fn with_stage(&self, turn: Option<Turn>) -> Budgets {
        Budgets { stage: Arc::new(Mutex::new(turn)), ..self.clone() }
    }

    /// How many databases may be on their way to a full target at once. While the indexes of one are built
    /// another can copy, so one alone would leave connections idle.
    #[must_use]
    pub fn stage_seats(options: &Options) -> NonZeroUsize {
        options.copy_jobs.max(NonZeroUsize::MIN.saturating_add(1))
    }

    /// The rows are there: the next database may begin.
    pub(super) fn leave_stage(&self) {
        drop(self.stage.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
