//! Measures the outbox and the queue, and surveys endpoints, inbox, replays and cleanups.

use std::sync::Arc;
use std::time::Duration;

use postrider_runtime::every::Next;
use postrider_store::{health, statistics};

use crate::{Relay, StepError, metric};

pub(super) const CADENCE: Duration = Duration::from_secs(5);

/// Longer than `CADENCE`, as a survey reads every endpoint.
pub(super) const SURVEY_CADENCE: Duration = Duration::from_secs(15);

/// Maximum rate-limited endpoints that are reported to PostgreSQL.
const THROTTLED: isize = 1_000;

/// Measures the outbox and the queue.
pub(super) async fn measure(relay: Arc<Relay>) -> Result<Next, StepError> {
    let outbox = statistics::outbox(&relay.store).await?;
    metrics::gauge!(metric::OUTBOX_DUE).set(outbox.due as f64);
    metrics::gauge!(metric::OUTBOX_PARKED).set(outbox.parked_estimate as f64);
    metrics::gauge!(metric::OUTBOX_OLDEST_DUE).set(outbox.oldest_due_seconds);
    metrics::gauge!(metric::LEASES).set(outbox.leases as f64);
    metrics::gauge!(metric::OLDEST_TRANSACTION).set(outbox.oldest_transaction_seconds);
    let queue = relay.queue.statistics().await?;
    metrics::gauge!(metric::QUEUE_WAITING).set(queue.waiting as f64);
    metrics::gauge!(metric::QUEUE_ELIGIBLE_APPLICATIONS).set(queue.eligible_applications as f64);
    metrics::gauge!(metric::QUEUE_BLOCKED_ENDPOINTS).set(queue.blocked_endpoints as f64);
    metrics::gauge!(metric::QUEUE_ENDPOINTS_IN_FLIGHT).set(queue.endpoints_in_flight as f64);
    // The API reports these as `waiting_for`; it does not see Redis.
    let throttled = relay.queue.throttled(THROTTLED).await?;
    health::note_throttled(&relay.store, &throttled).await?;
    Ok(Next::Later)
}

/// Counts endpoints, emitted events, open replays and open cleanups.
pub(super) async fn survey(relay: Arc<Relay>) -> Result<Next, StepError> {
    let survey = statistics::survey(&relay.store).await?;
    metrics::gauge!(metric::ENDPOINTS, "state" => "well").set(survey.well as f64);
    metrics::gauge!(metric::ENDPOINTS, "state" => "failing").set(survey.failing as f64);
    metrics::gauge!(metric::ENDPOINTS, "state" => "disabled").set(survey.disabled as f64);
    metrics::gauge!(metric::INBOX_WAITING).set(survey.inbox as f64);
    metrics::gauge!(metric::INBOX_OLDEST).set(survey.oldest_in_inbox_seconds);
    metrics::gauge!(metric::REPLAYS_OPEN).set(survey.replays as f64);
    metrics::gauge!(metric::CLEANUPS_OPEN).set(survey.cleanups as f64);
    Ok(Next::Later)
}
