//! Removes what was deleted and cancels what was withdrawn, step by step, so that live traffic does not feel it.

use std::time::{Duration, Instant};

use postrider_store::cleanups;

use crate::Relay;

/// How often it looks while there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);

/// Between two steps it rests as long as the first of them took, at least this long: cleanups never take more than half of
/// one connection's time.
const LEAST_REST: Duration = Duration::from_millis(5);

/// Cleans up for ever.
pub(crate) async fn run(relay: &Relay) {
    loop {
        let began = Instant::now();
        let result = cleanups::step(&relay.store).await.map_err(Into::into);
        let pause = match relay.note_result(result).await {
            Some(true) => {
                metrics::counter!("postrider_cleanup_steps_total").increment(1);
                began.elapsed().max(LEAST_REST)
            }
            Some(false) | None => IDLE,
        };
        tokio::time::sleep(pause).await;
    }
}
