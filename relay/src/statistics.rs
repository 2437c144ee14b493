//! Measures the outbox and the queue.

use std::time::Duration;

use postrider_shared::store::statistics;

use crate::{Relay, RelayError};

const EVERY: Duration = Duration::from_secs(5);

/// Measures for ever.
pub(crate) async fn run(relay: &Relay) {
    loop {
        let result = measure(relay).await;
        relay.settle(result).await;
        tokio::time::sleep(EVERY).await;
    }
}

async fn measure(relay: &Relay) -> Result<(), RelayError> {
    let outbox = statistics::outbox(&relay.store).await?;
    metrics::gauge!("postrider_outbox_due").set(outbox.due as f64);
    metrics::gauge!("postrider_outbox_parked").set(outbox.parked_estimate as f64);
    metrics::gauge!("postrider_outbox_oldest_due_seconds").set(outbox.oldest_due_seconds);
    metrics::gauge!("postrider_leases").set(outbox.leases as f64);
    metrics::gauge!("postrider_postgresql_oldest_transaction_seconds").set(outbox.oldest_transaction_seconds);
    let queue = relay.queue.statistics().await?;
    metrics::gauge!("postrider_queue_waiting").set(queue.waiting as f64);
    metrics::gauge!("postrider_queue_eligible_endpoints").set(queue.eligible_endpoints as f64);
    metrics::gauge!("postrider_queue_blocked_endpoints").set(queue.blocked_endpoints as f64);
    metrics::gauge!("postrider_queue_endpoints_in_flight").set(queue.endpoints_in_flight as f64);
    Ok(())
}
