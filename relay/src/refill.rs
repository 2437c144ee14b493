//! Brings parked rows to Redis when there is room for them, endpoint by endpoint in turn.

use std::collections::HashMap;
use std::time::Duration;

use postrider_shared::ids::EndpointId;
use postrider_shared::store::outbox::{self, Room};

use crate::{Relay, RelayError, pump};

/// How often it looks while something is parked, and while nothing is.
const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_millis(500);

/// Endpoints that are looked at in one go.
const ENDPOINTS: usize = 256;

/// Rows that are moved in one go, of bulk replays as many again at most.
const ROWS: i64 = 4_000;

/// Rows of bulk replays that go to an endpoint in one go: at least and at most. As many as it has dealt with
/// until the next look, so that what comes meanwhile waits behind few of them.
const LEAST_BURST: i64 = 8;
const LARGEST_BURST: i64 = 100;

/// How many rows of bulk replays each endpoint was given last.
type Bursts = HashMap<EndpointId, i64>;

/// Refills for ever.
pub(crate) async fn run(relay: &Relay) {
    let mut after = None;
    let mut bursts = Bursts::new();
    loop {
        let result = refill(relay, &mut after, &mut bursts).await;
        let pause = match relay.settle(result).await {
            Some(true) => BUSY,
            Some(false) | None => IDLE,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Moves what fits of the next endpoints after `after`; at the end it begins again. True: something is
/// parked.
async fn refill(
    relay: &Relay,
    after: &mut Option<EndpointId>,
    bursts: &mut Bursts,
) -> Result<bool, RelayError> {
    let mut client = relay.store.relaxed().await?;
    let began_at_the_first = after.is_none();
    let parked = outbox::parked_endpoints(&client, *after, ENDPOINTS as i64).await?;
    *after = parked.last().filter(|_| parked.len() == ENDPOINTS).map(|endpoint| endpoint.endpoint_id);
    let open: Vec<EndpointId> = parked.iter().filter(|e| e.is_open).map(|e| e.endpoint_id).collect();
    if open.is_empty() {
        return Ok(!(parked.is_empty() && began_at_the_first));
    }
    let with_bulk = parked.iter().filter(|e| e.is_open && e.has_bulk).map(|e| e.endpoint_id).collect();
    let bulk = bulk_room(relay, with_bulk, bursts).await?;
    // There may be less of each kind than there is room for: neither they nor endpoints take from each other.
    let share = ROWS / open.len() as i64;
    let mut rooms = Vec::new();
    for (&endpoint_id, room) in open.iter().zip(relay.queue.room(&open).await?) {
        let ordinary = room.min(share);
        let bulk = bulk.get(&endpoint_id).map_or(0, |&bulk| bulk.min(ordinary));
        if ordinary > 0 {
            rooms.push(Room { endpoint_id, ordinary, bulk });
        }
    }
    if !rooms.is_empty() {
        let take = outbox::unpark(&mut client, &rooms).await?;
        if !take.rows.is_empty() {
            pump::push(relay, take).await?;
        }
    }
    Ok(true)
}

/// How many rows of bulk replays may go to each of the endpoints: twice as many as last time where nothing
/// waits any more, half where something does.
async fn bulk_room(
    relay: &Relay,
    endpoints: Vec<EndpointId>,
    bursts: &mut Bursts,
) -> Result<HashMap<EndpointId, i64>, RelayError> {
    if endpoints.is_empty() {
        bursts.clear();
        return Ok(HashMap::new());
    }
    let mut rooms = HashMap::with_capacity(endpoints.len());
    for (endpoint, waiting) in endpoints.iter().zip(relay.queue.waiting(&endpoints).await?) {
        let burst = bursts.entry(*endpoint).or_insert(LEAST_BURST / 2);
        *burst = if waiting == 0 { *burst * 2 } else { *burst / 2 }.clamp(LEAST_BURST, LARGEST_BURST);
        let room = if waiting == 0 { *burst } else { LEAST_BURST - waiting };
        rooms.insert(*endpoint, room.max(0));
    }
    Ok(rooms)
}
