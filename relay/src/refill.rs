//! Brings parked rows to Redis when there is room for them, endpoint by endpoint in turn.

use std::time::Duration;

use postrider_shared::ids::EndpointId;
use postrider_shared::store::outbox;

use crate::{Relay, RelayError, pump};

/// How often it looks while something is parked, and while nothing is.
const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_millis(500);

/// Endpoints that are looked at in one go.
const ENDPOINTS: usize = 256;

/// Rows that are moved in one go.
const ROWS: i64 = 4_000;

/// Refills for ever.
pub(crate) async fn run(relay: &Relay) {
    let mut after = None;
    loop {
        let result = refill(relay, &mut after).await;
        let pause = match relay.settle(result).await {
            Some(true) => BUSY,
            Some(false) | None => IDLE,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Moves what fits of the next endpoints after `after`; at the end it begins again. True: something is
/// parked.
async fn refill(relay: &Relay, after: &mut Option<EndpointId>) -> Result<bool, RelayError> {
    let mut client = relay.store.relaxed().await?;
    let began_at_the_first = after.is_none();
    let parked = outbox::parked_endpoints(&client, *after, ENDPOINTS as i64).await?;
    *after = parked.last().filter(|_| parked.len() == ENDPOINTS).map(|endpoint| endpoint.endpoint_id);
    let open: Vec<EndpointId> = parked.iter().filter(|e| e.is_open).map(|e| e.endpoint_id).collect();
    if open.is_empty() {
        return Ok(!(parked.is_empty() && began_at_the_first));
    }
    let mut left = ROWS;
    let mut endpoints = Vec::new();
    let mut rooms = Vec::new();
    for (endpoint, room) in open.iter().zip(relay.queue.room(&open).await?) {
        let room = room.min(left);
        if room > 0 {
            left -= room;
            endpoints.push(*endpoint);
            rooms.push(room);
        }
    }
    if !endpoints.is_empty() {
        let take = outbox::unpark(&mut client, &endpoints, &rooms).await?;
        if !take.rows.is_empty() {
            pump::push(relay, take).await?;
        }
    }
    Ok(true)
}
