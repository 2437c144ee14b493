//! Takes bulk replays on, step by step: new deliveries of old events, and deliveries that are opened again.
//! What they queue is parked, so that all other traffic goes first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_runtime::every::Next;
use postrider_runtime::failpoint;
use postrider_store::replay_steps;

use crate::{Relay, StepError, metric};

/// How often it looks while there is nothing to do.
pub(super) const CADENCE: Duration = Duration::from_millis(500);

/// Between two steps it rests as long as the first of them took, at least this long: never more than half of
/// one connection's time goes into replays.
const LEAST_REST: Duration = Duration::from_millis(10);

/// Takes one step of a replay.
pub(super) async fn step(relay: Arc<Relay>) -> Result<Next, StepError> {
    let began = Instant::now();
    let step = replay_steps::step(&relay.store).await;
    failpoint::die_at("relay.after_replay_step");
    let Some(step) = step? else { return Ok(Next::Later) };
    metrics::counter!(metric::REPLAY_DELIVERIES).increment(step.matched.unsigned_abs());
    if step.is_last {
        tracing::info!(replay_id = %step.replay_id, "a bulk replay has come to its end");
    }
    Ok(Next::After(began.elapsed().max(LEAST_REST)))
}
