//! The events of the demo, from the POST to what the API reports about them afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant as Deadline;

use super::FAILING_EVENT_TYPE;
use super::client::Client;
use super::report::Journey;
use crate::receive::{Arrival, Verification};

/// Interval between checks whether a delivery is recorded.
const POLL: Duration = Duration::from_millis(50);

/// Returns the events to post.
pub(super) fn events() -> Vec<(&'static str, Value)> {
    vec![
        ("user.created", json!({ "user_id": 4711, "email": "ada@example.com", "plan": "team" })),
        ("invoice.paid", json!({ "invoice_id": "in_2041", "amount": "49.00", "currency": "EUR" })),
        (FAILING_EVENT_TYPE, json!({ "order_id": 881, "carrier": "post rider", "parcels": [1, 2] })),
    ]
}

/// Posts one event and notes the time.
pub(super) async fn post(
    client: &Client,
    api_key: &str,
    event_type: &'static str,
    data: &Value,
) -> anyhow::Result<Journey> {
    let posted_at = Instant::now();
    let accepted = client.post_event(api_key, event_type, data).await?;
    Ok(Journey {
        event_type,
        event_id: accepted.event_id,
        posted_at,
        accepted_after: posted_at.elapsed(),
        delivered_after: None,
        verification: None,
        attempts: Vec::new(),
        delivery_status: None,
    })
}

/// Notes arrivals until every event has arrived and was accepted, or the deadline has passed.
pub(super) async fn follow(
    journeys: &mut [Journey],
    arrivals: &mut mpsc::Receiver<Arrival>,
    deadline: Deadline,
) {
    while journeys.iter().any(|journey| journey.delivered_after.is_none()) {
        let Ok(Some(arrival)) = tokio::time::timeout_at(deadline, arrivals.recv()).await else { return };
        let Some(journey) = journeys.iter_mut().find(|journey| journey.event_id == arrival.webhook_id) else {
            continue; // From an earlier demo or another sender.
        };
        let is_verified = arrival.verification == Verification::Verified;
        journey.verification = Some(arrival.verification);
        if arrival.status.is_success() && is_verified {
            journey.delivered_after = Some(arrival.at.saturating_duration_since(journey.posted_at));
        }
    }
}

/// Reads the recorded attempts and status of the delivery to the demo's endpoint.
pub(super) async fn read_back(
    client: &Client,
    api_key: &str,
    endpoint_id: &str,
    journey: &mut Journey,
    deadline: Deadline,
) -> anyhow::Result<()> {
    loop {
        let deliveries = client.deliveries(api_key, &journey.event_id).await?;
        if let Some(delivery) = deliveries.into_iter().find(|delivery| delivery.endpoint_id == endpoint_id) {
            let attempts = client.attempts(api_key, &delivery.id).await?;
            journey.attempts = attempts
                .into_iter()
                .map(|attempt| match attempt.response_status {
                    Some(status) => status.to_string(),
                    None => attempt.error_class.unwrap_or_else(|| "no answer".to_owned()),
                })
                .collect();
            journey.delivery_status = Some(delivery.status);
        }
        // The receiver responds before the attempt is recorded.
        let is_recorded = journey.delivery_status.as_deref() == Some("succeeded");
        if is_recorded || Deadline::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}
