//! Makes the partitions of the coming week, and drops what is older than the retention: deliveries that are
//! open then end as dead letters first, and stay for a day.

use std::time::Duration;

use postrider_shared::store::partitions::{self, Expired};
use postrider_shared::store::{Dedicated, StoreError, connect_dedicated, expire, inbox};

use crate::{Relay, RelayError};

const EVERY: Duration = Duration::from_secs(600);

/// With fewer partitions than this ahead the relay is not ready: somebody has to look.
const TOO_FEW: Duration = Duration::from_secs(2 * 86_400);

/// Looks after the partitions for ever.
pub(crate) async fn run(relay: &Relay) {
    loop {
        let result = maintain(relay).await;
        if relay.settle(result).await.is_some() {
            tokio::time::sleep(EVERY).await;
        }
    }
}

async fn maintain(relay: &Relay) -> Result<(), RelayError> {
    let session = connect_dedicated(&relay.database).await?;
    if partitions::try_lock(&session.client).await? {
        let result = change(relay, &session).await;
        report(relay, &session).await?;
        return result.map_err(Into::into);
    }
    report(relay, &session).await
}

async fn report(relay: &Relay, Dedicated { client, .. }: &Dedicated) -> Result<(), RelayError> {
    let remaining = partitions::remaining(client).await?;
    metrics::gauge!("postrider_partitions_remaining_seconds").set(remaining.as_secs_f64());
    if remaining < TOO_FEW {
        relay.health.down("relay_partitions", "there are partitions for less than two days to come");
    } else {
        relay.health.up("relay_partitions");
    }
    Ok(())
}

async fn change(relay: &Relay, Dedicated { client, .. }: &Dedicated) -> Result<(), StoreError> {
    let retention_days = relay.retention_days;
    while partitions::remaining(client).await? < partitions::AHEAD {
        partitions::add(client, partitions::width_days(retention_days)).await?;
    }
    for orphan in partitions::orphans(client).await? {
        partitions::drop_detached(client, &orphan).await?;
    }
    for expired in partitions::expired(client, retention_days).await? {
        if expired.parent == "deliveries" && !expired.is_detaching {
            end_open(relay, &expired).await?;
            if expire::has_fresh_dead_letters(client, &expired).await? {
                continue;
            }
        }
        partitions::drop(client, &expired).await?;
        tracing::info!(partition = expired.name, "a partition older than the retention was dropped");
    }
    while partitions::forget_keys(client).await? > 0 {}
    while partitions::forget_parked(client).await? > 0 {}
    while inbox::forget_rejections(client, retention_days).await? > 0 {}
    Ok(())
}

/// Nothing that is open goes with its partition: it ends as a dead letter, for people to see.
async fn end_open(relay: &Relay, deliveries: &Expired) -> Result<(), StoreError> {
    let mut total = 0;
    loop {
        let ended = expire::step(&relay.store, deliveries.ends_at).await?;
        if ended == 0 {
            break;
        }
        metrics::counter!("postrider_deliveries_expired_total").increment(ended as u64);
        total += ended;
    }
    if total > 0 {
        tracing::warn!(
            deliveries = total,
            partition = deliveries.name,
            "open deliveries were older than the retention: dead letters"
        );
    }
    Ok(())
}
