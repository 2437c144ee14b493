//! Makes the partitions of the coming week, and drops what is older than the retention.

use std::time::Duration;

use postrider_shared::store::{Dedicated, StoreError, connect_dedicated, inbox, partitions};

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
        let result = change(&session, relay.retention_days).await;
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

async fn change(Dedicated { client, .. }: &Dedicated, retention_days: u32) -> Result<(), StoreError> {
    while partitions::remaining(client).await? < partitions::AHEAD {
        partitions::add(client, partitions::width_days(retention_days)).await?;
    }
    for orphan in partitions::orphans(client).await? {
        partitions::drop_detached(client, &orphan).await?;
    }
    for expired in partitions::expired(client, retention_days).await? {
        if expired.parent == "deliveries" {
            let open = partitions::count_open(client, &expired).await?;
            if open > 0 {
                metrics::counter!("postrider_deliveries_expired_total").increment(open.unsigned_abs());
                tracing::warn!(
                    open,
                    partition = expired.name,
                    "open deliveries are older than the retention"
                );
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
