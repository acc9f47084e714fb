//! Reports positions to the source on its own clock, and at once when asked.
//!
//! Hazard: a report that waits behind anything ends in a walsender timeout, and the same transaction comes again
//! for ever (P18, P19). So this is a task of its own, which only looks at where others stand.

use std::time::Duration;

use crate::error::Result;
use crate::replication::{FeedbackPositions, FeedbackWriter};

/// Tells the walsender where we stand.
pub(super) struct Reports<P> {
    feedback: FeedbackWriter,
    positions: P,
    interval: Duration,
}

impl<P: Fn() -> FeedbackPositions + Send> Reports<P> {
    /// `positions` is asked at every report; what it calls flushed never goes back.
    pub(super) fn new(feedback: FeedbackWriter, interval: Duration, positions: P) -> Reports<P> {
        Reports { feedback, positions, interval }
    }

    /// Reports until told to stop; the last report carries the last positions.
    pub(super) async fn run(mut self, mut stop: tokio::sync::oneshot::Receiver<()>) -> Result<()> {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.feedback.reply_wanted() => {}
                _ = &mut stop => {
                    self.feedback.report((self.positions)()).await?;
                    return self.feedback.finish().await;
                }
            }
            self.feedback.report((self.positions)()).await?;
        }
    }
}
