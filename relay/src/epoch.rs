//! Notices when Redis has lost its memory, and then puts all open deliveries back into the outbox.

use std::sync::Arc;
use std::time::Duration;

use postrider_runtime::every::{Next, Step};
use postrider_store::reconcile::{self, Epoch};

use crate::{Relay, StepError, metric};

/// Interval between two checks of Redis.
pub(crate) const CADENCE: Duration = Duration::from_millis(500);

/// Maximum open deliveries that one step puts back.
const STEP: i64 = 5_000;

/// Compares the epoch in Redis with the epoch in PostgreSQL.
#[derive(Default)]
pub(crate) struct EpochWatch {
    /// Whether the first check is done.
    has_checked: bool,
    /// Whether the eviction policy has been checked.
    has_warned: bool,
}

impl Step<Relay> for EpochWatch {
    async fn run(&mut self, relay: &Arc<Relay>) -> Result<Next, StepError> {
        check(relay, !self.has_checked).await?;
        self.has_checked = true;
        self.has_warned = self.has_warned || warn_of_eviction(relay).await;
        Ok(Next::Later)
    }

    async fn woken(&mut self, relay: &Arc<Relay>) -> Result<(), StepError> {
        relay.epoch_changed.notified().await;
        Ok(())
    }
}

async fn check(relay: &Relay, is_first: bool) -> Result<(), StepError> {
    let believed = reconcile::read_epoch(&relay.store).await?;
    let (number, run_id) = relay.queue.memory().await?;
    relay.health.up("relay_redis");
    let is_same = number == Some(believed.number) && run_id == believed.redis_run_id;
    if !is_same {
        begin(relay, &believed, &run_id, is_first).await?;
    }
    if !is_same || believed.is_reconciling {
        reconcile(relay).await?;
    }
    Ok(())
}

/// Begins a new epoch. A killed Redis can restart from an old snapshot that holds the epoch but not the ids, so the run
/// id of Redis counts too.
async fn begin(relay: &Relay, believed: &Epoch, run_id: &str, is_first: bool) -> Result<(), StepError> {
    if believed.number > 0 {
        if is_first {
            // Redis and the relay were started together, as `up` does: not worth a warning.
            tracing::info!(
                epoch = believed.number,
                "this is a different Redis than before: putting open deliveries back into the outbox"
            );
        } else {
            tracing::warn!(
                epoch = believed.number,
                "Redis has lost its memory: putting open deliveries back into the outbox"
            );
        }
        metrics::counter!(metric::RECONCILIATIONS).increment(1);
    }
    reconcile::begin_epoch(&relay.store, believed, run_id, async |epoch| {
        Ok(relay.queue.install_epoch(epoch).await?)
    })
    .await
}

async fn reconcile(relay: &Relay) -> Result<(), StepError> {
    let mut total = 0;
    while let Some(count) = reconcile::reconcile_step(&relay.store, STEP).await? {
        total += count;
    }
    if total > 0 {
        tracing::info!(deliveries = total, "open deliveries are back in the outbox");
    }
    Ok(())
}

/// Logs a warning if Redis may evict keys. Returns true if the check could be made.
async fn warn_of_eviction(relay: &Relay) -> bool {
    let Ok(policy) = relay.queue.eviction_policy().await else { return false };
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        tracing::warn!(
            policy,
            "Redis may evict ids when its memory is full: set maxmemory-policy to noeviction"
        );
    }
    true
}
