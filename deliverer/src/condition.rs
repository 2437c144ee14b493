//! Collects in memory whether attempts to each endpoint succeed, and writes it to PostgreSQL now and then. An endpoint
//! whose attempts have all failed for days is disabled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::attempt::{Recorded, Verdict};
use postrider_domain::delivery::ErrorClass;
use postrider_domain::ids::EndpointId;
use postrider_runtime::every::Next;
use postrider_secrets::endpoint_changes::{self, Cause};
use postrider_store::bisect::Bisect;
use postrider_store::{StoreError, health};

use crate::{Deliverer, StepError};

/// Interval between writes. A crash loses what was collected since the last write; later attempts show the same again.
pub(crate) const CADENCE: Duration = Duration::from_secs(5);

/// The endpoints with attempts since the last write; true if any attempt succeeded.
#[derive(Default)]
pub(crate) struct Condition(Mutex<HashMap<EndpointId, bool>>);

impl Condition {
    /// Notes the result of an attempt. Errors on our side say nothing about the endpoint.
    pub(crate) fn note(&self, endpoint: EndpointId, recorded: &Recorded) {
        let class = recorded.exchange.error_class;
        if matches!(class, Some(ErrorClass::Internal | ErrorClass::Unrenderable)) {
            return;
        }
        let has_succeeded = recorded.verdict == Verdict::Succeeded;
        *self.0.lock().entry(endpoint).or_default() |= has_succeeded;
    }

    fn take(&self) -> (Vec<EndpointId>, Vec<EndpointId>) {
        let notes = std::mem::take(&mut *self.0.lock());
        let (succeeded, failed): (Vec<_>, Vec<_>) = notes.into_iter().partition(|&(_, succeeded)| succeeded);
        let ids = |notes: Vec<(EndpointId, bool)>| notes.into_iter().map(|(id, _)| id).collect();
        (ids(succeeded), ids(failed))
    }
}

/// Writes what was noted, if automatic disabling is enabled.
pub(crate) async fn write(deliverer: Arc<Deliverer>) -> Result<Next, StepError> {
    let (succeeded, failed) = deliverer.condition.take();
    if let Some(limit) = deliverer.config.auto_disable_after
        && let Err(error) = note(&deliverer, &succeeded, &failed, limit).await
    {
        // Later attempts show the same again.
        tracing::debug!(%error, "the condition of endpoints was not written");
    }
    Ok(Next::Later)
}

async fn note(
    deliverer: &Deliverer,
    succeeded: &[EndpointId],
    failed: &[EndpointId],
    limit: Duration,
) -> Result<(), StoreError> {
    health::note_attempts(&deliverer.store, succeeded, &[], limit).await?;
    let mut failing = Vec::new();
    // A locked endpoint is noted after its next attempts.
    let mut bisect = Bisect::of(failed.to_vec());
    while let Some(part) = bisect.next() {
        match health::note_attempts(&deliverer.store, &[], &part, limit).await {
            Ok(endpoints) => failing.extend(endpoints),
            Err(error) => bisect.split(part, error)?,
        }
    }
    for endpoint_id in failing {
        let days = limit.as_secs() / 86_400;
        let reason = format!("every attempt has failed for {days} days");
        let cause = Cause::Failing(limit);
        if endpoint_changes::disable(&deliverer.store, endpoint_id, &reason, &cause).await? {
            tracing::warn!(%endpoint_id, reason, "endpoint disabled");
        }
    }
    Ok(())
}
