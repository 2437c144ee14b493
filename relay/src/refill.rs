//! Brings parked rows to Redis when there is room for them: application after application, and within each endpoint
//! after endpoint.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_queue::Space;
use postrider_runtime::every::{Next, Step};
use postrider_store::backlog::{self, ParkedEndpoint};
use postrider_store::outbox::{self, Room};

use crate::{Relay, StepError, pump};

/// How often it begins with the first application, while nothing is parked and while something is.
pub(crate) const CADENCE: Duration = Duration::from_millis(500);
const PAUSE_WHILE_PARKED: Duration = Duration::from_millis(100);

/// Between two steps it rests as long as the first of them took, at least this long.
const LEAST_REST: Duration = Duration::from_millis(5);

/// Applications that one step looks at, and endpoints, of which each application has the same number.
const APPLICATIONS: usize = 64;
const ENDPOINTS: usize = 256;

/// Rows that one step moves, of each kind. Applications with room share them, and within each its endpoints.
const ROWS: i64 = 1_000;

/// Rows of bulk replays that go to an endpoint in one go: at least and at most. As many as it has dealt with
/// until the next look, so that what comes meanwhile waits behind few of them.
const LEAST_BURST: i64 = 8;
const LARGEST_BURST: i64 = 100;

/// A walk over what is parked: where it goes on.
#[derive(Default)]
pub(crate) struct Refill {
    /// Behind this application; `None`: with the first.
    after: Option<ApplicationId>,
    /// Behind this endpoint of an application that has more than one step looks at.
    within: HashMap<ApplicationId, EndpointId>,
    /// How many rows of bulk replays each endpoint was given last.
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

/// Moves what fits of the next applications.
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
    // More applications, or more endpoints of one that has room.
    let is_more = walk.after.is_some() || has_room && !walk.within.is_empty();
    Ok(Next::After(if is_more { began.elapsed().max(LEAST_REST) } else { PAUSE_WHILE_PARKED }))
}

/// How many rows of each endpoint fit.
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

/// How many rows of bulk replays may go to an endpoint: twice as many as last time where nothing waits any more,
/// half where something does.
fn bulk_room(bursts: &mut HashMap<EndpointId, i64>, endpoint: EndpointId, waiting: i64) -> i64 {
    let burst = bursts.entry(endpoint).or_insert(LEAST_BURST / 2);
    *burst = if waiting == 0 { *burst * 2 } else { *burst / 2 }.clamp(LEAST_BURST, LARGEST_BURST);
    let room = if waiting == 0 { *burst } else { LEAST_BURST - waiting };
    room.max(0)
}
