//! Ends leases whose deliverer is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_runtime::every::{Next, Step};
use postrider_store::leases::{self, PUT_OFF, SWEEP_GRACE};

use crate::{Relay, StepError, metric};

pub(super) const CADENCE: Duration = Duration::from_secs(1);

/// A delivery that could not be swept is tried again within this time. Until then, a sweep that finds nothing does not
/// prove that all is well.
const TRIED_AGAIN: Duration = PUT_OFF.saturating_add(CADENCE.saturating_mul(2));

/// The task that ends leases that have expired or whose deliverer is gone.
#[derive(Default)]
pub(super) struct Sweep {
    /// When sweeping a delivery last failed.
    failed_at: Option<Instant>,
}

impl Step<Relay> for Sweep {
    async fn run(&mut self, relay: &Arc<Relay>) -> Result<Next, StepError> {
        // After an outage, deliverers first get time to record the attempts that they have made.
        if relay.heard.since_recovery().is_none_or(|since| since >= SWEEP_GRACE) {
            sweep(relay, &mut self.failed_at).await?;
        }
        Ok(Next::Later)
    }
}

async fn sweep(relay: &Relay, failed_at: &mut Option<Instant>) -> Result<(), StepError> {
    let schedule = relay.retry_schedule.seconds();
    loop {
        let swept = leases::sweep(&relay.store, &schedule).await?;
        if swept.deliveries > 0 {
            tracing::warn!(
                deliveries = swept.deliveries,
                "a deliverer is gone; its deliveries are due again"
            );
            metrics::counter!(metric::SWEPT).increment(swept.deliveries.unsigned_abs());
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
