//! Brings parked rows to Redis when there is room for them, endpoint by endpoint in turn.

use std::collections::HashMap;
use std::time::Duration;

use postrider_shared::ids::EndpointId;
use postrider_shared::queue::Space;
use postrider_shared::store::outbox::{self, Room};

use crate::{Relay, RelayError, pump};

/// How often it looks while something is parked, and while nothing is.
const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_millis(500);

/// Endpoints that are looked at in one go.
const ENDPOINTS: usize = 256;

/// Rows that are moved in one go, of each kind. Endpoints with room share them.
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
    let open: Vec<_> = parked.iter().filter(|endpoint| endpoint.is_open).collect();
    if open.is_empty() {
        return Ok(!(parked.is_empty() && began_at_the_first));
    }
    if !open.iter().any(|endpoint| endpoint.has_bulk) {
        bursts.clear();
    }
    let ids: Vec<EndpointId> = open.iter().map(|endpoint| endpoint.endpoint_id).collect();
    let spaces = relay.queue.space(&ids).await?;
    let with_room = spaces.iter().filter(|space| space.room > 0).count();
    let share = ROWS / i64::try_from(with_room).unwrap_or(i64::MAX).max(1);
    let mut rooms = Vec::with_capacity(with_room);
    for (endpoint, Space { waiting, room }) in open.into_iter().zip(spaces) {
        let endpoint_id = endpoint.endpoint_id;
        let bulk = if endpoint.has_bulk { bulk_room(bursts, endpoint_id, waiting) } else { 0 };
        if room > 0 {
            rooms.push(Room { endpoint_id, ordinary: room.min(share), bulk: bulk.min(room).min(share) });
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

/// How many rows of bulk replays may go to an endpoint: twice as many as last time where nothing waits any more,
/// half where something does.
fn bulk_room(bursts: &mut Bursts, endpoint: EndpointId, waiting: i64) -> i64 {
    let burst = bursts.entry(endpoint).or_insert(LEAST_BURST / 2);
    *burst = if waiting == 0 { *burst * 2 } else { *burst / 2 }.clamp(LEAST_BURST, LARGEST_BURST);
    let room = if waiting == 0 { *burst } else { LEAST_BURST - waiting };
    room.max(0)
}
