//! Accepts events from all sources: checks each against its application's rate limit and the schema of its type, and
//! stores it.

pub(crate) mod batch;
pub(crate) mod error;
pub(crate) mod fanout;
pub(crate) mod idempotency_key;
pub(crate) mod ingest_limit;
pub(crate) mod known_schemas;
pub(crate) mod load;
pub(crate) mod posted;
pub(crate) mod queue;
pub(crate) mod storing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use postrider_domain::event::{Accepted, NewEvent, Producer};
use postrider_domain::event_type::EventType;
use postrider_domain::ids::{ApplicationId, EventId};
use postrider_store::Store;

use crate::accept::batch::{Batcher, Outcome};
use crate::accept::error::{AcceptError, InvalidEvent};
use crate::accept::ingest_limit::IngestLimits;
use crate::accept::known_schemas::KnownSchemas;
use crate::auth::party::Parties;
use crate::metric;
use crate::schema::Violation;

/// How often an event is tried again because this process had an outdated schema or rate limit.
const ROUNDS: usize = 5;

/// An event that is stored, together with its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AcceptedEvent {
    /// The id that PostgreSQL gave it.
    pub(crate) event_id: EventId,
    /// How many deliveries it made.
    pub(crate) deliveries_queued: i32,
    /// True if an event with the same idempotency key was accepted before. The id and the count are then those of
    /// that event.
    pub(crate) is_duplicate: bool,
}

/// The result for one event.
pub(crate) type AcceptResult = Result<AcceptedEvent, AcceptError>;

/// How events are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Through the queue, in batches with other producers' events; applications are served in turn. All events must
    /// have the same producer.
    Queued,
    /// At once and in the given order, without the queue.
    InOrder,
}

/// Accepts events.
pub(crate) struct Acceptor {
    batcher: Batcher,
    schemas: KnownSchemas,
    ingest_limits: IngestLimits,
    parties: Arc<Parties>,
}

/// What the caller remembers about an event while it is being stored.
struct Mark {
    /// Its index in the results.
    index: usize,
    /// Its violations of the schema that it was checked against.
    violations: Vec<Violation>,
}

/// What to do after one try.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The result is final.
    Done(AcceptResult),
    /// The event must be checked again with newer knowledge.
    Again(Outdated, ApplicationId),
}

/// Which cached knowledge about an application is outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outdated {
    Schema,
    RateLimit,
}

impl From<Outdated> for AcceptError {
    fn from(outdated: Outdated) -> Self {
        match outdated {
            Outdated::Schema => Self::SchemaChanging,
            Outdated::RateLimit => Self::RateLimitChanging,
        }
    }
}

impl Acceptor {
    /// Creates an acceptor that stores events through `batcher`.
    pub(crate) fn new(store: &Store, batcher: Batcher, parties: Arc<Parties>) -> Self {
        Self {
            batcher,
            schemas: KnownSchemas::new(store.clone()),
            ingest_limits: IngestLimits::new(store.clone()),
            parties,
        }
    }

    /// Accepts one event.
    ///
    /// # Errors
    /// The reason why the event was not accepted.
    pub(crate) async fn accept(&self, event: NewEvent) -> AcceptResult {
        self.accept_all(vec![event], Mode::Queued).await?.pop().unwrap_or(Err(AcceptError::Internal))
    }

    /// Accepts events independently of each other. Returns one result for each, in the same order.
    ///
    /// # Errors
    /// If no event was accepted, and the reason is the same for all of them.
    pub(crate) async fn accept_all(
        &self,
        events: Vec<NewEvent>,
        mode: Mode,
    ) -> Result<Vec<AcceptResult>, AcceptError> {
        let mut results = vec![Err(AcceptError::Internal); events.len()];
        let mut open: Vec<(usize, NewEvent)> = events.into_iter().enumerate().collect();
        for round in 0..ROUNDS {
            let checked = self.check(std::mem::take(&mut open), mode, &mut results).await;
            let (events, marks): (Vec<_>, Vec<_>) = checked.into_iter().unzip();
            let stored = match self.store(events, mode).await {
                Ok(stored) => stored,
                Err(error) if round == 0 => return Err(error),
                Err(error) => {
                    marks.iter().for_each(|mark| results[mark.index] = Err(error.clone()));
                    break;
                }
            };
            let mut learned = HashSet::new();
            for (Mark { index, violations }, stored) in marks.into_iter().zip(stored) {
                let Some((event, outcome)) = stored else {
                    results[index] = Err(AcceptError::Unavailable);
                    continue;
                };
                match self.next_step(&event.producer, outcome, violations) {
                    Step::Done(result) => results[index] = result,
                    Step::Again(outdated, application) => {
                        // The result, unless another round brings a better one.
                        results[index] = Err(outdated.into());
                        match self.learn(&event, outdated, application, &mut learned).await {
                            Ok(()) => open.push((index, event)),
                            // Later events must not overtake this one.
                            Err(error) if mode == Mode::InOrder => return Err(error),
                            Err(error) => results[index] = Err(error),
                        }
                    }
                }
            }
            if open.is_empty() {
                break;
            }
        }
        Ok(results)
    }

    /// Returns how many deliveries an event of this producer is expected to make.
    pub(crate) fn expect_of(&self, producer: &Producer) -> usize {
        self.batcher.expect_of(producer)
    }

    /// Returns the events that pass all checks, and stores the results of the others. In [`Mode::InOrder`], an event
    /// that cannot be checked now also holds back the later events of its producer.
    async fn check(
        &self,
        open: Vec<(usize, NewEvent)>,
        mode: Mode,
        results: &mut [AcceptResult],
    ) -> Vec<(NewEvent, Mark)> {
        let mut checked = Vec::with_capacity(open.len());
        let mut held: HashMap<Producer, AcceptError> = HashMap::new();
        let is_alone = open.len() == 1;
        for (index, mut event) in open {
            if let Some(error) = held.get(&event.producer) {
                results[index] = Err(error.clone());
                continue;
            }
            match self.check_one(&mut event).await {
                Ok(violations) => checked.push((event, Mark { index, violations })),
                Err(error) => {
                    if mode == Mode::InOrder && error.is_retryable() {
                        held.insert(event.producer, error.clone());
                    }
                    results[index] = Err(error);
                }
            }
            if !is_alone {
                // Yield between events, so that checking a thousand of them does not block the runtime.
                tokio::task::yield_now().await;
            }
        }
        checked
    }

    async fn check_one(&self, event: &mut NewEvent) -> Result<Vec<Violation>, AcceptError> {
        self.ingest_limits.admit(event).await?;
        let party = self.parties.of_producer(&event.producer);
        Ok(self.schemas.check(&party, event).await?)
    }

    async fn store(
        &self,
        events: Vec<NewEvent>,
        mode: Mode,
    ) -> Result<Vec<Option<(NewEvent, Outcome)>>, AcceptError> {
        match mode {
            Mode::Queued => {
                let Some(first) = events.first() else { return Ok(Vec::new()) };
                let party = self.parties.of_producer(&first.producer);
                Ok(self.batcher.submit_all(party, events)?.await)
            }
            Mode::InOrder => Ok(self.batcher.store_in_order(events).await),
        }
    }

    fn next_step(&self, producer: &Producer, outcome: Outcome, violations: Vec<Violation>) -> Step {
        if outcome == Ok(Accepted::UnknownKey) {
            self.ingest_limits.forget(producer);
        }
        let step = step_after(producer, outcome, violations);
        if let Step::Done(Ok(event)) = &step {
            let label = if event.is_duplicate { "true" } else { "false" };
            metrics::counter!(metric::EVENTS_ACCEPTED, "duplicate" => label).increment(1);
        }
        step
    }

    /// Refreshes what was outdated; each schema at most once per round.
    async fn learn(
        &self,
        event: &NewEvent,
        outdated: Outdated,
        application: ApplicationId,
        learned: &mut HashSet<(ApplicationId, EventType)>,
    ) -> Result<(), AcceptError> {
        match outdated {
            Outdated::RateLimit => self.ingest_limits.learn(event.producer.clone(), application),
            Outdated::Schema if learned.insert((application, event.event_type.clone())) => {
                self.schemas.learn(event, application).await?;
            }
            Outdated::Schema => {}
        }
        Ok(())
    }
}

fn step_after(producer: &Producer, outcome: Outcome, violations: Vec<Violation>) -> Step {
    let error = match outcome {
        Ok(Accepted::Stored { event_id, deliveries_queued, duplicate, cost: _ }) => {
            let event = AcceptedEvent { event_id, deliveries_queued, is_duplicate: duplicate };
            return Step::Done(Ok(event));
        }
        Ok(Accepted::SchemaChanged(application)) => return Step::Again(Outdated::Schema, application),
        Ok(Accepted::NotAdmitted(application)) => return Step::Again(Outdated::RateLimit, application),
        Ok(Accepted::KeyReused) => AcceptError::KeyReused,
        Ok(Accepted::SchemaViolation) => AcceptError::SchemaViolation(violations),
        Ok(Accepted::UnknownEventType) => InvalidEvent::UnknownEventType.into(),
        Ok(Accepted::InactiveApplication) => AcceptError::InactiveApplication,
        Ok(Accepted::Forbidden) => AcceptError::Forbidden,
        Ok(Accepted::UnknownApplication) if matches!(producer, Producer::Admin(_)) => {
            AcceptError::UnknownApplication
        }
        Ok(Accepted::UnknownApplication | Accepted::UnknownKey) => AcceptError::UnknownKey,
        Err(error) => error,
    };
    Step::Done(Err(error))
}

#[cfg(test)]
mod tests;
