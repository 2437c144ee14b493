//! Moves parked rows to Redis when there is room: one application after another, and one endpoint after another within
//! each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_queue::Space;
use postrider_runtime::every::{Next, Step};
use postrider_store::backlog::{self, ParkedEndpoint};
use postrider_store::outbox::{self, Room};

use crate::{Relay, StepError, pump};

/// Interval between two passes while nothing is parked, and while something is.
pub(crate) const CADENCE: Duration = Duration::from_millis(500);
const PAUSE_WHILE_PARKED: Duration = Duration::from_millis(100);

/// A step is followed by a rest as long as the step took, and at least this long.
const LEAST_REST: Duration = Duration::from_millis(5);

/// Maximum applications and endpoints per step. Each application gets the same number of endpoints.
const APPLICATIONS: usize = 64;
const ENDPOINTS: usize = 256;

/// Maximum rows of each kind per step. Applications with room share them equally, as do the endpoints of each
/// application.
const ROWS: i64 = 1_000;

/// Minimum and maximum rows of bulk replays that an endpoint gets at once. The burst adapts to what the endpoint
/// completes between two looks, so that new deliveries wait behind few of them.
const LEAST_BURST: i64 = 8;
const LARGEST_BURST: i64 = 100;

/// A pass over all parked rows, and its position.
#[derive(Default)]
pub(crate) struct Refill {
    /// The last application of the previous step; `None` starts with the first.
    after: Option<ApplicationId>,
    /// The last endpoint of the previous step, for applications with more endpoints than one step takes.
    within: HashMap<ApplicationId, EndpointId>,
    /// The last burst of each endpoint: rows of bulk replays that it was given at once.
    bursts: HashMap<EndpointId, i64>,
}

impl Step<Relay> for Refill {
    async fn run(&mut self, relay: &Arc<Relay>) -> Result<Next, StepError> {
        refill(relay, self).await
    }

    async fn woken(&mut self, relay: &Arc<Relay>) -> Result<(), StepError> {
        relay.heard.parked.notified().await;
        Ok(())
    }
}

/// Moves rows of the next applications, as many as fit.
async fn refill(relay: &Relay, walk: &mut Refill) -> Result<Next, StepError> {
    let began = Instant::now();
    let mut client = relay.store.relaxed().await?;
    let is_first = walk.after.is_none();
    let applications = backlog::applications(&client, walk.after, APPLICATIONS as i64).await?;
    walk.after = applications.last().copied().filter(|_| applications.len() == APPLICATIONS);
    if applications.is_empty() {
        walk.within.clear();
        walk.bursts.clear();
        return Ok(if is_first { Next::Later } else { Next::After(PAUSE_WHILE_PARKED) });
    }
    let each = ENDPOINTS / applications.len();
    let places: Vec<_> =
        applications.iter().map(|application| (*application, walk.within.remove(application))).collect();
    let parked = backlog::endpoints(&client, &places, each as i64).await?;
    for of_one in parked.chunk_by(|a, b| a.application_id == b.application_id) {
        if let [.., last] = of_one
            && of_one.len() == each
        {
            walk.within.insert(last.application_id, last.endpoint_id);
        }
    }
    let rooms = rooms(relay, walk, &parked).await?;
    let has_room = !rooms.is_empty();
    if has_room {
        let take = outbox::unpark(&mut client, &rooms).await?;
        if !take.rows.is_empty() {
            pump::push(relay, take).await?;
        }
    }
    // There are more applications, or more endpoints of an application with room.
    let is_more = walk.after.is_some() || has_room && !walk.within.is_empty();
    Ok(Next::After(if is_more { began.elapsed().max(LEAST_REST) } else { PAUSE_WHILE_PARKED }))
}

/// Returns how many rows of each endpoint fit into Redis.
async fn rooms(relay: &Relay, walk: &mut Refill, parked: &[ParkedEndpoint]) -> Result<Vec<Room>, StepError> {
    let open: Vec<_> = parked.iter().filter(|endpoint| endpoint.is_open).collect();
    if open.is_empty() {
        return Ok(Vec::new());
    }
    if !open.iter().any(|endpoint| endpoint.has_bulk) {
        walk.bursts.clear();
    }
    let ids: Vec<_> = open.iter().map(|endpoint| (endpoint.application_id, endpoint.endpoint_id)).collect();
    let spaces = relay.queue.space(&ids).await?;
    let mut with_room: HashMap<ApplicationId, i64> = HashMap::new();
    for (endpoint, space) in open.iter().zip(&spaces) {
        if space.room > 0 {
            *with_room.entry(endpoint.application_id).or_default() += 1;
        }
    }
    let each = ROWS / i64::try_from(with_room.len()).unwrap_or(i64::MAX).max(1);
    let mut rooms = Vec::with_capacity(open.len());
    for (endpoint, Space { waiting, room }) in open.into_iter().zip(spaces) {
        let &ParkedEndpoint { application_id, endpoint_id, .. } = endpoint;
        let bulk = if endpoint.has_bulk { bulk_room(&mut walk.bursts, endpoint_id, waiting) } else { 0 };
        if room > 0 {
            let room = room.min((each / with_room[&application_id]).max(1));
            rooms.push(Room { application_id, endpoint_id, ordinary: room, bulk: bulk.min(room) });
        }
    }
    Ok(rooms)
}

/// Returns how many rows of bulk replays may go to an endpoint. The burst doubles if nothing is waiting in Redis, and
/// halves otherwise.
fn bulk_room(bursts: &mut HashMap<EndpointId, i64>, endpoint: EndpointId, waiting: i64) -> i64 {
    let burst = bursts.entry(endpoint).or_insert(LEAST_BURST / 2);
    *burst = if waiting == 0 { *burst * 2 } else { *burst / 2 }.clamp(LEAST_BURST, LARGEST_BURST);
    let room = if waiting == 0 { *burst } else { LEAST_BURST - waiting };
    room.max(0)
}
