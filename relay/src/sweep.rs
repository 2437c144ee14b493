//! Ends leases whose deliverer is gone.

use std::time::Duration;

use postrider_shared::store::leases::{self, SWEEP_GRACE};

use crate::{Relay, RelayError};

const EVERY: Duration = Duration::from_secs(1);

/// Sweeps for ever.
pub(crate) async fn run(relay: &Relay) {
    let schedule = relay.retry_schedule.seconds();
    loop {
        tokio::time::sleep(EVERY).await;
        // After an outage, deliverers first get the time to record what they have sent.
        if relay.listener.since_recovery().is_some_and(|since| since < SWEEP_GRACE) {
            continue;
        }
        let result = sweep(relay, &schedule).await;
        relay.settle(result).await;
    }
}

async fn sweep(relay: &Relay, schedule: &[i32]) -> Result<(), RelayError> {
    loop {
        let swept = leases::sweep(&relay.store, schedule).await?;
        if swept.deliveries > 0 {
            tracing::warn!(
                deliveries = swept.deliveries,
                "a deliverer vanished; its deliveries are due again"
            );
            metrics::counter!("postrider_relay_swept_total").increment(swept.deliveries.unsigned_abs());
        }
        // Said once, however long it lasts.
        match swept.failed.first() {
            None => relay.health.up("relay_sweep"),
            Some((delivery, error)) => {
                relay.health.down("relay_sweep", format!("delivery {delivery} cannot be swept: {error}"));
            }
        }
        if swept.leases == 0 {
            return Ok(());
        }
    }
}
