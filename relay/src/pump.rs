//! Takes what is due and pushes it. A take stays open over the push: what was not pushed is still there.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use postrider_queue::Group;
use postrider_runtime::failpoint;
use postrider_store::backlog;
use postrider_store::outbox::{self, DueRow, Parked, Take};

use crate::low_water::LowWater;
use crate::{Relay, RelayError};

/// Rows of one take.
const BATCH: usize = 256;

/// After a take of this many rows, but no whole batch, others gather for a moment: many small takes, pushes and
/// claims cost more than few. Where little is going on, nothing waits.
const MANY_ROWS: usize = 8;
const GATHER: Duration = Duration::from_millis(2);

/// What is due next is waited for at least this long, so that retries of close times go together.
const LEAST_WAIT: Duration = Duration::from_millis(5);

/// Without a notification the outbox is looked at this often.
const POLL: Duration = Duration::from_secs(1);

/// Looking ahead after full takes costs at most one part in so many of the time, but is done at least this often:
/// without it, everybody stands behind what one application has in the line.
const LOOK_AHEAD_SHARE: u32 = 10;
const LOOK_AHEAD_EVERY: Duration = Duration::from_secs(1);

/// Pumps for ever.
pub(crate) async fn run(relay: &Relay) {
    let mut is_pushing = false;
    let mut low_water = LowWater::default();
    let mut look_ahead_at = Instant::now();
    loop {
        // While Redis is away, rows are not held open only to find that out.
        let step = async {
            if !is_pushing {
                relay.queue.memory().await?;
            }
            pump(relay, &mut low_water, &mut look_ahead_at).await
        };
        let result = step.await;
        is_pushing = result.is_ok();
        if let Some(wait) = relay.note_result(result).await
            && !wait.is_zero()
        {
            relay.listener.wait(wait).await;
        }
    }
}

/// Pushes one batch and answers how long the next can wait.
async fn pump(
    relay: &Relay,
    low_water: &mut LowWater,
    look_ahead_at: &mut Instant,
) -> Result<Duration, RelayError> {
    let mut client = relay.store.relaxed().await?;
    let began = Instant::now();
    let since = low_water.since(began);
    let take = outbox::take(&mut client, BATCH as i64, since).await?;
    let (count, due_until, late_by) = (take.rows.len(), take.due_until, take.late_by);
    if count == 0 {
        drop(take);
    } else {
        push(relay, take).await?;
        metrics::counter!("postrider_relay_taken_total").increment(count as u64);
        metrics::histogram!("postrider_relay_batch_size").record(count as f64);
        metrics::histogram!("postrider_relay_lag_seconds").record(late_by.as_secs_f64());
    }
    low_water.note(since, due_until, began, Instant::now());
    if count == BATCH && *look_ahead_at <= Instant::now() {
        // The line is long: nobody is to stand behind all that somebody else has in it.
        let began = Instant::now();
        // From the head of the line on, past the dead rows of what was taken.
        let parked = backlog::set_aside(&client, low_water.head()).await?;
        metrics::counter!("postrider_relay_parked_total").increment(parked);
        let pause = (began.elapsed() * LOOK_AHEAD_SHARE).min(LOOK_AHEAD_EVERY);
        *look_ahead_at = Instant::now() + pause;
    }
    if count >= MANY_ROWS {
        // There is more, or soon will be.
        if count < BATCH {
            tokio::time::sleep(GATHER).await;
        }
        return Ok(Duration::ZERO);
    }
    // Whatever has been written since the take notifies, unless it is due later.
    let poll = low_water.pause(Instant::now()).min(POLL);
    let next = outbox::next_due(&client).await?;
    Ok(next.map_or(poll, |due| due.min(poll)).max(LEAST_WAIT))
}

/// Pushes what was taken, parks what has to wait, and ends the take.
pub(crate) async fn push(relay: &Relay, take: Take<'_>) -> Result<(), RelayError> {
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
    metrics::counter!("postrider_relay_parked_total").increment(parked.len() as u64);
    take.commit(&parked).await?;
    Ok(())
}

/// Sorts rows by endpoint. Those of disabled endpoints are parked, and those of endpoints that have parked
/// rows already queue up behind them.
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
