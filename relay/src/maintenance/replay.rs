//! Advances bulk replays step by step. A step makes new deliveries of old events, or reopens deliveries. They are
//! parked, so that all other traffic goes first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_runtime::every::Next;
use postrider_runtime::failpoint;
use postrider_store::replay_steps;

use crate::{Relay, StepError, metric};

/// Poll interval while there is nothing to do.
pub(super) const CADENCE: Duration = Duration::from_millis(500);

/// A step is followed by a rest as long as the step took, and at least this long: replays use at most half of one
/// connection's time.
const LEAST_REST: Duration = Duration::from_millis(10);

/// Takes one step of a bulk replay.
pub(super) async fn step(relay: Arc<Relay>) -> Result<Next, StepError> {
    let began = Instant::now();
    let step = replay_steps::step(&relay.store).await;
    failpoint::die_at("relay.after_replay_step");
    let Some(step) = step? else { return Ok(Next::Later) };
    metrics::counter!(metric::REPLAY_DELIVERIES).increment(step.matched.unsigned_abs());
    if step.is_last {
        tracing::info!(replay_id = %step.replay_id, "a bulk replay has ended");
    }
    Ok(Next::After(began.elapsed().max(LEAST_REST)))
}
