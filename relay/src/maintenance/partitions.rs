//! Creates the partitions of the coming week, and drops partitions older than the retention. Deliveries that are still
//! open become dead letters first, and stay for a day.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use postrider_runtime::every::Next;
use postrider_store::partitions::{self, Detached, Expired};
use postrider_store::{Dedicated, StoreError, connect_dedicated, emit_rejections, expire};

use crate::{Relay, StepError, metric};

pub(super) const CADENCE: Duration = Duration::from_secs(600);

/// With partitions for less time ahead than this, the relay is not ready: an operator has to act.
const TOO_FEW: Duration = Duration::from_secs(2 * 86_400);

/// Interval between two runs while the health check fails.
const AGAIN: Duration = Duration::from_secs(5);

/// The name of the health check.
pub(super) const PART: &str = "relay_partitions";

/// Creates and drops the partitions that are due.
pub(super) async fn maintain(relay: Arc<Relay>) -> Result<Next, StepError> {
    let relay = &*relay;
    let session = connect_dedicated(&relay.database).await?;
    let changed =
        if partitions::try_lock(&session.client).await? { change(relay, &session).await } else { Ok(()) };
    report(relay, &session).await?;
    changed?;
    Ok(if relay.health.is_down(PART) { Next::After(AGAIN) } else { Next::Later })
}

async fn report(relay: &Relay, Dedicated { client, .. }: &Dedicated) -> Result<(), StepError> {
    let remaining = partitions::holes(client).await?.first().map(|hole| hole.in_time).unwrap_or_default();
    metrics::gauge!(metric::PARTITIONS_REMAINING).set(remaining.as_secs_f64());
    let detached = partitions::detached(client, relay.retention_days).await?;
    let missed =
        detached.iter().filter(|detached| !detached.is_expired).map(|detached| detached.name.as_str());
    let missed: Vec<_> = missed.collect();
    if !missed.is_empty() {
        let reason = format!("detached: {}; attach them again, or rename or drop them", missed.join(", "));
        relay.health.down(PART, reason);
    } else if remaining < TOO_FEW {
        relay.health.down(PART, "there are partitions for less than the next two days");
    } else {
        relay.health.up(PART);
    }
    Ok(())
}

async fn change(relay: &Relay, session: &Dedicated) -> Result<(), StoreError> {
    let client = &session.client;
    let retention_days = relay.retention_days;
    let detached = partitions::detached(client, retention_days).await?;
    // A partition that cannot be created or dropped does not stop the others.
    let mut failed = make(session, &detached, partitions::width_days(retention_days)).await.err();
    // Partitions that are still being detached are dealt with below: they may hold open deliveries.
    for left in detached.iter().filter(|detached| detached.is_expired && !detached.is_detaching) {
        failed = partitions::drop_detached(client, &left.name).await.err().or(failed);
    }
    // Attempts stay as long as a partition of deliveries that they may belong to: one in flight is still recorded.
    let mut kept = HashSet::new();
    for expired in partitions::expired(client, retention_days).await? {
        if expired.parent == "delivery_attempts" && kept.contains(&expired.ends_at) {
            continue;
        }
        match drop_if_done(relay, session, &expired).await {
            Ok(true) => {}
            kept_or_failed => {
                if expired.parent == "deliveries" {
                    kept.insert(expired.ends_at);
                }
                failed = kept_or_failed.err().or(failed);
            }
        }
    }
    while partitions::forget_keys(client, retention_days).await? > 0 {}
    while partitions::forget_parked(client, retention_days).await? > 0 {}
    while emit_rejections::forget(client, retention_days).await? > 0 {}
    failed.map_or(Ok(()), Err)
}

/// Creates the partitions that the coming week lacks, for all tables. A detached partition is expected back, so nothing
/// is created in its place.
async fn make(
    Dedicated { client, .. }: &Dedicated,
    detached: &[Detached],
    width_days: u32,
) -> Result<(), StoreError> {
    loop {
        let mut failed = None;
        let mut is_complete = true;
        for hole in partitions::holes(client).await? {
            if hole.in_time < partitions::AHEAD && !detached.iter().any(|table| table.leaves(&hole)) {
                is_complete = false;
                failed = partitions::fill(client, &hole, width_days).await.err().or(failed);
            }
        }
        match failed {
            Some(error) => return Err(error),
            None if is_complete => return Ok(()),
            None => {}
        }
    }
}

/// Drops an expired partition. Returns false if it holds deliveries that must stay for now.
async fn drop_if_done(
    relay: &Relay,
    Dedicated { client, .. }: &Dedicated,
    expired: &Expired,
) -> Result<bool, StoreError> {
    if expired.parent == "deliveries" && !expired.is_detaching {
        end_open(relay, expired).await?;
        if expire::must_stay(client, expired).await? {
            return Ok(false);
        }
    }
    partitions::drop(client, expired).await?;
    Ok(true)
}

/// Turns open deliveries of an expired partition into dead letters, so that people see them before they are dropped.
async fn end_open(relay: &Relay, deliveries: &Expired) -> Result<(), StoreError> {
    let mut total = 0;
    loop {
        let ended = expire::step(&relay.store, deliveries.ends_at).await?;
        if ended == 0 {
            break;
        }
        metrics::counter!(metric::DELIVERIES_EXPIRED).increment(ended as u64);
        total += ended;
    }
    if total > 0 {
        tracing::warn!(
            deliveries = total,
            partition = deliveries.name,
            "open deliveries older than the retention became dead letters"
        );
    }
    Ok(())
}
