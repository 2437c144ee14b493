//! Faults of this deliverer, or of the network path to all receivers. They spend no attempt and say nothing about an
//! endpoint. While there is one, webhooks are tried one at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postrider_runtime::health::Health;
use tokio::sync::watch;

use crate::client::Fault;
use crate::metric;

/// Delay after a fault, and between two tries while it lasts.
const PAUSE: Duration = Duration::from_secs(1);

/// The current faults, each with the time when it was last found.
#[derive(Default)]
pub(crate) struct Faults(watch::Sender<BTreeMap<&'static str, Instant>>);

impl Faults {
    /// Notes a fault that kept a webhook from being sent.
    pub(crate) fn found(&self, health: &Health, Fault { part, reason }: &Fault) {
        self.0.send_modify(|faults| {
            faults.insert(part, Instant::now());
        });
        health.down(part, reason);
        metrics::counter!(metric::CLAIMS_GIVEN_BACK, "part" => *part).increment(1);
    }

    /// Notes an exchange without a fault. It ends the faults that were found before the exchange began.
    pub(crate) fn passed(&self, health: &Health, began: Instant) {
        self.0.send_if_modified(|faults| {
            let before = faults.len();
            faults.retain(|part, found| {
                let is_over = *found < began;
                if is_over {
                    health.up(part);
                }
                !is_over
            });
            faults.len() < before
        });
    }

    /// Waits a second while there is a fault. Returns true if it is still there.
    pub(crate) async fn pause(&self) -> bool {
        let mut faults = self.0.subscribe();
        tokio::time::timeout(PAUSE, faults.wait_for(BTreeMap::is_empty)).await.is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_is_over_when_something_that_began_after_it_has_passed() {
        let (faults, health) = (Faults::default(), Health::default());
        assert!(!faults.pause().await);
        let before = Instant::now();
        faults.found(&health, &Fault { part: "deliverer_sockets", reason: "none".to_owned() });
        faults.passed(&health, before);
        assert!(health.is_down("deliverer_sockets"));
        assert!(faults.pause().await);
        faults.passed(&health, Instant::now() + Duration::from_secs(1));
        assert!(!faults.pause().await);
    }
}
