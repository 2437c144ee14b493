//! Removes what was deleted and cancels what was withdrawn, step by step, so that live traffic does not feel it.

use std::time::Duration;

use postrider_shared::store::cleanups;

use crate::Relay;

/// How long it pauses between two steps, and while there is nothing to do.
const BUSY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(500);

/// Cleans up for ever.
pub(crate) async fn run(relay: &Relay) {
    loop {
        let result = cleanups::step(&relay.store).await.map_err(Into::into);
        let pause = match relay.settle(result).await {
            Some(true) => {
                metrics::counter!("postrider_cleanup_steps_total").increment(1);
                BUSY
            }
            Some(false) | None => IDLE,
        };
        tokio::time::sleep(pause).await;
    }
}
