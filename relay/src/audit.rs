//! Looks, slowly and all the time, for open deliveries that nobody works on: what the parts of a
//! distributed system lose in ways that nobody has thought of.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postrider_shared::ids::{DeliveryId, EndpointId};
use postrider_shared::store::reconcile;

use crate::{Relay, RelayError};

const EVERY: Duration = Duration::from_secs(2);

/// A step that takes long is followed by a rest of this many times as long, up to a minute: it has no hurry.
const REST: u32 = 50;
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Open deliveries that one step looks at.
const STEP: i64 = 5_000;

/// Audits for ever.
pub(crate) async fn run(relay: &Relay) {
    let mut after = None;
    let mut rest = EVERY;
    loop {
        tokio::time::sleep(rest).await;
        let began = Instant::now();
        let result = audit(relay, &mut after).await;
        relay.settle(result).await;
        rest = (began.elapsed() * REST).clamp(EVERY, LONGEST_REST);
    }
}

/// A delivery is stranded when it has been due for long, is neither leased nor parked, and its endpoint
/// has nothing in Redis, so that it cannot be merely waiting its turn.
async fn audit(relay: &Relay, after: &mut Option<DeliveryId>) -> Result<(), RelayError> {
    let (overdue, next) = reconcile::find_overdue(&relay.store, *after, STEP).await?;
    *after = next;
    let mut endpoints: Vec<EndpointId> = overdue.iter().map(|row| row.endpoint_id).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    if endpoints.is_empty() {
        return Ok(());
    }
    let idle: HashMap<_, _> = endpoints.iter().zip(relay.queue.are_idle(&endpoints).await?).collect();
    let stranded: Vec<_> = overdue.iter().filter(|row| idle[&row.endpoint_id]).copied().collect();
    if !stranded.is_empty() {
        reconcile::requeue(&relay.store, &stranded).await?;
        metrics::counter!("postrider_relay_stranded_total").increment(stranded.len() as u64);
        tracing::warn!(deliveries = stranded.len(), "deliveries were stranded; they are due again");
    }
    Ok(())
}
