//! Searches, slowly and continuously, for open deliveries that no process works on. This audit catches losses that no
//! other mechanism foresees.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId};
use postrider_runtime::every::{Next, Step};
use postrider_store::leases;
use postrider_store::reconcile::{self, Overdue, Stranded};

use crate::{Relay, StepError, metric};

pub(super) const CADENCE: Duration = Duration::from_secs(2);

/// A step is followed by a rest of this many times its duration, up to a minute: the search is not urgent.
const REST: u32 = 50;
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Maximum open deliveries that one step reads.
const STEP: i64 = 5_000;

/// Maximum endpoints whose queues are read at once. Together they take some megabytes.
const QUEUES: usize = 64;

/// A continuous walk through all open deliveries.
#[derive(Default)]
pub(super) struct Search {
    /// The last delivery of the previous step; `None` starts at the first.
    after: Option<DeliveryId>,
}

impl Step<Relay> for Search {
    async fn run(&mut self, relay: &Arc<Relay>) -> Result<Next, StepError> {
        let began = Instant::now();
        look(relay, &mut self.after).await?;
        Ok(Next::After((began.elapsed() * REST).clamp(CADENCE, LONGEST_REST)))
    }
}

/// Makes stranded deliveries due again.
///
/// A delivery is stranded if it has been overdue for long, is neither leased nor parked, and Redis does not have its
/// id. If Redis has the id, the delivery may just wait for its turn, or its endpoint may have dropped out of the rings
/// in Redis. So the relay pushes to each late endpoint, which puts it back into the rings.
///
/// A delivery whose lease row is gone is abandoned: the sweep does not find it.
async fn look(relay: &Relay, after: &mut Option<DeliveryId>) -> Result<(), StepError> {
    let (Stranded { overdue, abandoned }, next) =
        reconcile::find_stranded(&relay.store, *after, STEP).await?;
    *after = next;
    if !abandoned.is_empty() {
        let (count, _) = leases::abandon(&relay.store, &abandoned, &relay.retry_schedule.seconds()).await?;
        note(count.unsigned_abs());
    }
    let late: BTreeMap<EndpointId, ApplicationId> =
        overdue.iter().map(|row| (row.endpoint_id, row.application_id)).collect();
    let late: Vec<_> = late.into_iter().map(|(endpoint, application)| (application, endpoint)).collect();
    for late in late.chunks(QUEUES) {
        let endpoints: Vec<_> = late.iter().map(|(_, endpoint)| *endpoint).collect();
        let contents = relay.queue.contents(&endpoints).await?;
        let contents: BTreeMap<_, HashSet<_>> = endpoints.into_iter().zip(contents).collect();
        let is_lost = |row: &&Overdue| {
            contents.get(&row.endpoint_id).is_some_and(|queued| !queued.contains(&row.delivery_id))
        };
        let lost: Vec<_> = overdue.iter().filter(is_lost).copied().collect();
        reconcile::requeue(&relay.store, &lost, late).await?;
        note(lost.len() as u64);
    }
    Ok(())
}

fn note(deliveries: u64) {
    if deliveries > 0 {
        metrics::counter!(metric::STRANDED).increment(deliveries);
        tracing::warn!(deliveries, "deliveries were stranded; they are due again");
    }
}
