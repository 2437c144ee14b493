//! Takes due rows and pushes them to Redis. A take is a transaction that stays open during the push, so rows that were
//! not pushed remain in the outbox.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_queue::Group;
use postrider_runtime::every::{Next, Step};
use postrider_runtime::failpoint;
use postrider_store::outbox::{self, DueRow, Parked, Take};
use postrider_store::{PooledClient, backlog};
use tracing::Instrument as _;

use crate::low_water::LowWater;
use crate::{Relay, StepError, metric};

/// Maximum rows of one take.
const BATCH: usize = 256;

/// After a take of at least this many rows that is not a full batch, the pump pauses so that more rows gather: many
/// small takes, pushes and claims cost more than a few large ones. Under light load there is no pause.
const MANY_ROWS: usize = 8;
const GATHER: Duration = Duration::from_millis(2);

/// Minimum wait for the next due row, so that retries with close due times go together.
const LEAST_WAIT: Duration = Duration::from_millis(5);

/// Poll interval when no notification arrives.
pub(crate) const CADENCE: Duration = Duration::from_secs(1);

/// Looking ahead after full takes costs at most one tenth of the time, but happens at least once per this interval:
/// without it, every application waits behind the rows of one that has many in the outbox.
const LOOK_AHEAD_SHARE: u32 = 10;
const LOOK_AHEAD_EVERY: Duration = Duration::from_secs(1);

/// The task that takes and pushes.
#[derive(Default)]
pub(crate) struct Pump {
    /// Whether the last step succeeded.
    is_pushing: bool,
    low_water: LowWater,
    /// When to look ahead again; `None` means after the next full take.
    look_ahead_at: Option<Instant>,
}

impl Step<Relay> for Pump {
    async fn run(&mut self, relay: &Arc<Relay>) -> Result<Next, StepError> {
        // During an outage of Redis, find out before a transaction is opened.
        if !std::mem::take(&mut self.is_pushing) {
            relay.queue.memory().await?;
        }
        let next = self.pump(relay).await?;
        self.is_pushing = true;
        Ok(next)
    }

    async fn woken(&mut self, relay: &Arc<Relay>) -> Result<(), StepError> {
        relay.heard.due.notified().await;
        Ok(())
    }
}

impl Pump {
    /// Takes a batch, pushes it, and returns when the next step is due.
    async fn pump(&mut self, relay: &Relay) -> Result<Next, StepError> {
        let mut client = relay.store.relaxed().await?;
        let count = self.take(relay, &mut client).await?;
        if count == BATCH {
            self.look_ahead(&client).await?;
            return Ok(Next::Now);
        }
        if count >= MANY_ROWS {
            // More rows will follow soon.
            return Ok(Next::After(GATHER));
        }
        // Rows written since the take send a notification, unless they are due later.
        let poll = self.low_water.pause(Instant::now()).min(CADENCE);
        let next = outbox::next_due(&client).await?;
        Ok(Next::Within(next.map_or(poll, |due| due.min(poll)).max(LEAST_WAIT)))
    }

    /// Takes a batch, pushes it, and returns its number of rows.
    async fn take(&mut self, relay: &Relay, client: &mut PooledClient) -> Result<usize, StepError> {
        let began = Instant::now();
        let since = self.low_water.since(began);
        let take = outbox::take(client, BATCH as i64, since).await?;
        let (count, due_until, late_by) = (take.rows.len(), take.due_until, take.late_by);
        if count == 0 {
            drop(take);
        } else {
            push(relay, take).await?;
            metrics::counter!(metric::TAKEN).increment(count as u64);
            metrics::histogram!(metric::BATCH_SIZE).record(count as f64);
            late_by.into_iter().for_each(|late_by| metrics::histogram!(metric::LAG).record(late_by));
        }
        self.low_water.note(since, due_until, began, Instant::now());
        Ok(count)
    }

    /// When one application has many due rows, parks all but a few hundred of them, so that other applications do not
    /// wait behind them.
    async fn look_ahead(&mut self, client: &PooledClient) -> Result<(), StepError> {
        let began = Instant::now();
        if self.look_ahead_at.is_some_and(|at| at > began) {
            return Ok(());
        }
        // Starts at the head of the queue, to skip the dead rows that earlier takes left.
        let parked = backlog::set_aside(client, self.low_water.head()).await?;
        metrics::counter!(metric::PARKED).increment(parked);
        let pause = (began.elapsed() * LOOK_AHEAD_SHARE).min(LOOK_AHEAD_EVERY);
        self.look_ahead_at = Some(Instant::now() + pause);
        Ok(())
    }
}

/// Pushes the rows of a take, parks those that have to wait, and commits.
pub(crate) async fn push(relay: &Relay, take: Take<'_>) -> Result<(), StepError> {
    let span = tracing::debug_span!("take", epoch = take.epoch, rows = take.rows.len());
    push_and_commit(relay, take).instrument(span).await
}

async fn push_and_commit(relay: &Relay, take: Take<'_>) -> Result<(), StepError> {
    let mut parked = Vec::new();
    let groups = group(&take.rows, &mut parked);
    if !groups.is_empty() {
        let bulk: HashSet<_> =
            take.rows.iter().filter(|row| row.is_bulk).filter_map(|row| row.delivery_id).collect();
        let accepted = relay.queue.push(take.epoch, &groups).await?;
        for (group, accepted) in groups.iter().zip(accepted) {
            parked.extend(group.deliveries[accepted..].iter().map(|&delivery_id| Parked {
                delivery_id,
                endpoint_id: group.endpoint_id,
                application_id: group.application_id,
                is_bulk: bulk.contains(&delivery_id),
            }));
        }
    }
    failpoint::die_at("relay.after_push");
    metrics::counter!(metric::PARKED).increment(parked.len() as u64);
    take.commit(&parked).await?;
    Ok(())
}

/// Groups rows by endpoint. Parks the rows of disabled endpoints, and the rows of endpoints that already have parked
/// rows, so that these keep their place in the queue.
fn group(rows: &[DueRow], parked: &mut Vec<Parked>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut positions = HashMap::new();
    for row in rows {
        if let Some(delivery_id) = row.delivery_id
            && (!row.is_open || row.has_parked)
        {
            parked.push(Parked {
                delivery_id,
                endpoint_id: row.endpoint_id,
                application_id: row.application_id,
                is_bulk: row.is_bulk,
            });
            continue;
        }
        let position = *positions.entry(row.endpoint_id).or_insert(groups.len());
        if position == groups.len() {
            groups.push(Group {
                endpoint_id: row.endpoint_id,
                application_id: row.application_id,
                limits: row.limits,
                deliveries: Vec::new(),
            });
        }
        groups[position].deliveries.extend(row.delivery_id);
    }
    groups
}
