//! Measures the outbox and the queue, and surveys the rest.

use std::time::Duration;

use postrider_store::{health, statistics};

use crate::{Relay, RelayError};

const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// It looks at every endpoint.
const SURVEY_EVERY: Duration = Duration::from_secs(15);

/// Endpoints that are looked at for their rate limit.
const THROTTLED: isize = 1_000;

/// Measures for ever.
pub(crate) async fn run(relay: &Relay) {
    let measuring = async {
        loop {
            relay.note_result(measure(relay).await).await;
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    };
    let surveying = async {
        loop {
            relay.note_result(survey(relay).await).await;
            tokio::time::sleep(SURVEY_EVERY).await;
        }
    };
    tokio::join!(measuring, surveying);
}

async fn measure(relay: &Relay) -> Result<(), RelayError> {
    let outbox = statistics::outbox(&relay.store).await?;
    metrics::gauge!("postrider_outbox_due").set(outbox.due as f64);
    metrics::gauge!("postrider_outbox_parked").set(outbox.parked_estimate as f64);
    metrics::gauge!("postrider_outbox_oldest_due_seconds").set(outbox.oldest_due_seconds);
    metrics::gauge!("postrider_leases").set(outbox.leases as f64);
    metrics::gauge!("postrider_postgresql_oldest_transaction_seconds").set(outbox.oldest_transaction_seconds);
    let queue = relay.queue.statistics().await?;
    metrics::gauge!("postrider_queue_waiting").set(queue.waiting as f64);
    metrics::gauge!("postrider_queue_eligible_applications").set(queue.eligible_applications as f64);
    metrics::gauge!("postrider_queue_blocked_endpoints").set(queue.blocked_endpoints as f64);
    metrics::gauge!("postrider_queue_endpoints_in_flight").set(queue.endpoints_in_flight as f64);
    // For `waiting_for`: the API does not see Redis.
    let throttled = relay.queue.throttled(THROTTLED).await?;
    health::note_throttled(&relay.store, &throttled).await?;
    Ok(())
}

async fn survey(relay: &Relay) -> Result<(), RelayError> {
    let survey = statistics::survey(&relay.store).await?;
    metrics::gauge!("postrider_endpoints", "state" => "well").set(survey.well as f64);
    metrics::gauge!("postrider_endpoints", "state" => "failing").set(survey.failing as f64);
    metrics::gauge!("postrider_endpoints", "state" => "disabled").set(survey.disabled as f64);
    metrics::gauge!("postrider_inbox_waiting").set(survey.inbox as f64);
    metrics::gauge!("postrider_inbox_oldest_seconds").set(survey.oldest_in_inbox_seconds);
    metrics::gauge!("postrider_replays_open").set(survey.replays as f64);
    metrics::gauge!("postrider_cleanups_open").set(survey.cleanups as f64);
    Ok(())
}
