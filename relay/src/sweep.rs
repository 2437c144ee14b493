//! Ends leases whose deliverer is gone.

use std::time::{Duration, Instant};

use postrider_store::leases::{self, PUT_OFF, SWEEP_GRACE};

use crate::{Relay, RelayError};

const EVERY: Duration = Duration::from_secs(1);

/// What could not be swept is tried again within this. Before that, sweeps that find nothing prove nothing.
const TRIED_AGAIN: Duration = PUT_OFF.saturating_add(EVERY.saturating_mul(2));

/// Sweeps for ever.
pub(crate) async fn run(relay: &Relay) {
    let schedule = relay.retry_schedule.seconds();
    let mut failed_at = None;
    loop {
        tokio::time::sleep(EVERY).await;
        // After an outage, deliverers first get the time to record what they have sent.
        if relay.listener.since_recovery().is_some_and(|since| since < SWEEP_GRACE) {
            continue;
        }
        let result = sweep(relay, &schedule, &mut failed_at).await;
        relay.note_result(result).await;
    }
}

async fn sweep(relay: &Relay, schedule: &[i32], failed_at: &mut Option<Instant>) -> Result<(), RelayError> {
    loop {
        let swept = leases::sweep(&relay.store, schedule).await?;
        if swept.deliveries > 0 {
            tracing::warn!(
                deliveries = swept.deliveries,
                "a deliverer vanished; its deliveries are due again"
            );
            metrics::counter!("postrider_relay_swept_total").increment(swept.deliveries.unsigned_abs());
        }
        if let Some((delivery, error)) = swept.failed.first() {
            *failed_at = Some(Instant::now());
            relay.health.down("relay_sweep", format!("delivery {delivery} cannot be swept: {error}"));
        }
        if swept.leases == 0 {
            break;
        }
    }
    if failed_at.is_none_or(|at| at.elapsed() >= TRIED_AGAIN) {
        relay.health.up("relay_sweep");
    }
    Ok(())
}
