//! Takes bulk replays on, step by step: new deliveries of old events, and deliveries that are opened again.
//! What they queue is parked, so that all other traffic goes first.

use std::time::{Duration, Instant};

use postrider_runtime::failpoint;
use postrider_store::replay_steps;

use crate::Relay;

/// How often it looks while there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);

/// Between two steps it rests as long as the first of them took, at least this long: never more than half of
/// one connection's time goes into replays.
const LEAST_REST: Duration = Duration::from_millis(10);

/// Takes steps for ever.
pub(crate) async fn run(relay: &Relay) {
    loop {
        let began = Instant::now();
        let result = replay_steps::step(&relay.store).await.map_err(Into::into);
        failpoint::die_at("relay.after_replay_step");
        let rest = match relay.note_result(result).await.flatten() {
            Some(step) => {
                metrics::counter!("postrider_replay_deliveries_total").increment(step.matched.unsigned_abs());
                if step.is_last {
                    tracing::info!(replay_id = %step.replay_id, "a bulk replay has come to its end");
                }
                began.elapsed().max(LEAST_REST)
            }
            None => IDLE,
        };
        tokio::time::sleep(rest).await;
    }
}
