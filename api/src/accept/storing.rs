//! Stores events, and isolates the ones to blame when a statement fails.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postrider_domain::event::{Accepted, NewEvent, Producer};
use postrider_runtime::failpoint;
use postrider_runtime::health::Health;
use postrider_store::accept::accept;
use postrider_store::{Store, StoreError};

use crate::POSTGRESQL;
use crate::accept::batch::Outcome;
use crate::accept::error::{AcceptError, InvalidEvent};
use crate::accept::fanout::Fanout;
use crate::accept::load::{Load, MAX_BATCH_DELIVERIES};
use crate::accept::queue::AcceptQueue;
use crate::metric;

/// How often a single event, or a batch of one producer, is tried when a lock blocks it.
const TRIES: u32 = 3;
/// The pause between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// After this many producers in a row were blocked by a lock, the rest of the batch is refused, because the lock
/// would block it too.
const MOST_BUSY: u32 = 3;

/// The events for one statement, and a companion value for each.
pub(crate) type Part<T> = (Vec<NewEvent>, Vec<T>);

/// What storing needs.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Where events are stored.
    pub(crate) store: &'a Store,
    /// Notes whether PostgreSQL is available.
    pub(crate) health: &'a Health,
    /// Learns how many deliveries events make.
    pub(crate) fanout: &'a Fanout,
    /// True if an event that is not stored also keeps the later events of its producer from being stored.
    pub(crate) in_order: bool,
}

/// Stores events in their order and calls `tell` with each event, its companion value and its outcome. If one event
/// causes a failure, its part is split until that event is alone.
pub(crate) async fn store_all<T>(
    context: Context<'_>,
    mut parts: Vec<Part<T>>,
    tell: impl FnMut(NewEvent, T, Outcome),
) {
    // `pop` takes from the end.
    parts.reverse();
    let mut storing = Storing { context, tell, parts, held: HashMap::new(), busy_in_a_row: 0 };
    while let Some(part) = storing.parts.pop() {
        let (events, companions) = storing.settle_refused(part);
        if events.is_empty() {
            continue;
        }
        match store_part(context.store, &events, context.in_order).await {
            Ok(accepted) => storing.settle_accepted((events, companions), accepted),
            Err(error) => storing.settle_or_split((events, companions), error),
        }
    }
}

struct Storing<'a, T, F> {
    context: Context<'a>,
    tell: F,
    /// What is left to store, the next part last.
    parts: Vec<Part<T>>,
    /// Producers whose later events get the same outcome.
    held: HashMap<Producer, Outcome>,
    busy_in_a_row: u32,
}

impl<T, F: FnMut(NewEvent, T, Outcome)> Storing<'_, T, F> {
    /// Settles the events of a part that cannot be stored now, and returns the others.
    fn settle_refused(&mut self, (events, companions): Part<T>) -> Part<T> {
        let mut rest = (Vec::with_capacity(events.len()), Vec::with_capacity(companions.len()));
        for (event, companion) in events.into_iter().zip(companions) {
            let is_refused = || self.context.fanout.is_refused(&event).then_some(Err(AcceptError::TooCostly));
            match self.held.get(&event.producer).cloned().or_else(is_refused) {
                Some(outcome) => (self.tell)(event, companion, outcome),
                None => {
                    rest.0.push(event);
                    rest.1.push(companion);
                }
            }
        }
        rest
    }

    fn settle_accepted(&mut self, (events, companions): Part<T>, accepted: Vec<Accepted>) {
        let Context { health, fanout, in_order, .. } = self.context;
        health.up(POSTGRESQL);
        self.busy_in_a_row = 0;
        for ((event, companion), accepted) in events.into_iter().zip(companions).zip(accepted) {
            if let Accepted::Stored { cost, duplicate: false, .. } = accepted {
                fanout.learn(&event, cost);
            }
            if in_order && matches!(accepted, Accepted::SchemaChanged(_)) {
                self.held.insert(event.producer.clone(), Ok(accepted.clone()));
            }
            (self.tell)(event, companion, Ok(accepted));
        }
    }

    fn settle_or_split(&mut self, (mut events, mut companions): Part<T>, error: StoreError) {
        if (error.is_timeout() || is_busy(&error)) && !is_of_one(&events) {
            // Split by producer, so that the others no longer wait for the one to blame.
            if error.is_timeout() {
                events.iter().for_each(|event| self.context.fanout.suspect(event));
            }
            self.parts.extend(by_producer(events.into_iter().zip(companions)).into_iter().rev());
        } else if events.len() > 1
            && (error.is_data_error() || error.is_contention_for_key() || error.is_timeout())
        {
            let middle = events.len() / 2;
            let second = (events.split_off(middle), companions.split_off(middle));
            self.parts.extend([second, (events, companions)]);
        } else {
            self.settle_failed((events, companions), error);
        }
    }

    fn settle_failed(&mut self, (events, companions): Part<T>, error: StoreError) {
        let Context { health, fanout, in_order, .. } = self.context;
        let reason = reason_for(&error);
        if reason == AcceptError::Unavailable {
            health.down(POSTGRESQL, error);
        }
        for (event, companion) in events.into_iter().zip(companions) {
            if reason == AcceptError::TooCostly {
                fanout.refuse(&event);
            }
            if in_order && reason.is_retryable() {
                self.held.insert(event.producer.clone(), Err(reason.clone()));
            }
            (self.tell)(event, companion, Err(reason.clone()));
        }
        if reason == AcceptError::Busy {
            self.busy_in_a_row += 1;
        }
        if self.busy_in_a_row == MOST_BUSY {
            for (events, companions) in self.parts.drain(..).rev() {
                for (event, companion) in events.into_iter().zip(companions) {
                    (self.tell)(event, companion, Err(reason.clone()));
                }
            }
        }
    }
}

fn is_of_one(events: &[NewEvent]) -> bool {
    events.iter().all(|event| event.producer == events[0].producer)
}

/// Returns true if the statement waited for a lock other than that of one event's idempotency key.
fn is_busy(error: &StoreError) -> bool {
    error.is_contention() && !error.is_contention_for_key()
}

async fn store_part(store: &Store, events: &[NewEvent], in_order: bool) -> Result<Vec<Accepted>, StoreError> {
    // True if the caller will not split this part any further.
    let is_whole = |error: &StoreError| events.len() == 1 || is_busy(error) && is_of_one(events);
    let mut tries = TRIES;
    loop {
        let began = Instant::now();
        failpoint::die_at("api.before_commit");
        let result = accept(store, events, in_order).await;
        if result.is_ok() {
            failpoint::die_at("api.after_commit");
            metrics::histogram!(metric::ACCEPT_SECONDS).record(began.elapsed().as_secs_f64());
        }
        tries -= 1;
        match result {
            Err(error) if tries > 0 && error.is_contention() && is_whole(&error) => {
                tokio::time::sleep(RETRY_DELAY).await
            }
            result => return result,
        }
    }
}

/// Splits events into parts that are each expected to make no more deliveries than one statement may. Keeps the
/// order, and pairs each event with its index.
pub(crate) fn sized(events: Vec<NewEvent>, queue: &AcceptQueue) -> Vec<Part<usize>> {
    let (mut parts, mut load): (Vec<Part<usize>>, _) = (Vec::new(), Load::default());
    for (index, event) in events.into_iter().enumerate() {
        let (_, expected) = queue.weigh(&event);
        if parts.is_empty() || !load.has_room(expected, MAX_BATCH_DELIVERIES) {
            parts.push(Part::default());
            load = Load::default();
        }
        load.add(event.data.len() as u64, expected);
        let (events, indices) = parts.last_mut().expect("a part was added above if there was none");
        events.push(event);
        indices.push(index);
    }
    parts
}

/// Groups events by producer and keeps their order.
fn by_producer<T>(items: impl Iterator<Item = (NewEvent, T)>) -> Vec<Part<T>> {
    let mut parts: Vec<Part<T>> = Vec::new();
    for (event, answer) in items {
        let of_same = |(events, _): &&mut Part<T>| events[0].producer == event.producer;
        match parts.iter_mut().find(of_same) {
            Some((events, answers)) => {
                events.push(event);
                answers.push(answer);
            }
            None => parts.push((vec![event], vec![answer])),
        }
    }
    parts
}

fn reason_for(error: &StoreError) -> AcceptError {
    if error.is_timeout() {
        AcceptError::TooCostly
    } else if error.is_data_error() {
        InvalidEvent::NotStorable.into()
    } else if error.is_contention_for_key() {
        AcceptError::KeyBusy
    } else if error.is_contention() {
        AcceptError::Busy
    } else {
        AcceptError::Unavailable
    }
}
