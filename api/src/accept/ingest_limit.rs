//! The ingest rate limit of an application, shared by all API processes.
//!
//! This process only guesses which producers are limited. The statement that stores an event refuses it if the
//! application has a limit and its budget was not charged. The budget is kept in PostgreSQL. Each process draws a
//! tenth of a second's worth in advance, so that most events need no statement of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use postrider_domain::event::{NewEvent, Producer};
use postrider_domain::ids::ApplicationId;
use postrider_store::Store;
use postrider_store::ingest::{self, Draw};
use tokio::sync::Mutex;

use crate::accept::error::AcceptError;

/// How many producers and applications are remembered.
const MAX_KNOWN: u64 = 100_000;
/// How long events that were drawn in advance stay valid.
const KEPT: Duration = Duration::from_secs(1);
/// How long after a failure nothing is drawn, and events are refused with a 503.
const PAUSE: Duration = Duration::from_secs(1);

/// The producers known to be limited, and what is left of the budgets drawn here.
pub(crate) struct IngestLimits {
    store: Store,
    limited: Cache<Producer, ApplicationId>,
    budgets: Cache<ApplicationId, Arc<Mutex<Budget>>>,
}

/// What this process knows about a budget. A mutex guards it, so that only one task draws from PostgreSQL at a time.
#[derive(Default)]
struct Budget {
    events: u32,
    drawn_at: Option<Instant>,
    /// The budget is empty until this time.
    empty_until: Option<Instant>,
    failed_at: Option<Instant>,
}

impl IngestLimits {
    /// Creates an empty cache.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, limited: Cache::new(MAX_KNOWN), budgets: Cache::new(MAX_KNOWN) }
    }

    /// Charges an event to the budget of its application, if the application is known to have one.
    ///
    /// # Errors
    /// If the budget is spent or PostgreSQL is unavailable.
    pub(crate) async fn admit(&self, event: &mut NewEvent) -> Result<(), AcceptError> {
        if event.is_admitted {
            return Ok(());
        }
        let Some(application) = self.limited.get(&event.producer) else { return Ok(()) };
        let budget = self.budgets.get_with(application, Arc::default);
        let mut budget = budget.lock().await;
        if !self.take(&mut budget, application).await? {
            self.limited.invalidate(&event.producer);
        }
        event.is_admitted = true;
        Ok(())
    }

    /// Records that the application of a producer is limited.
    pub(crate) fn learn(&self, producer: Producer, application: ApplicationId) {
        self.limited.insert(producer, application);
    }

    /// Forgets a producer whose key is unknown or revoked.
    pub(crate) fn forget(&self, producer: &Producer) {
        self.limited.invalidate(producer);
    }

    /// Takes one event from the budget. Returns false if the application is no longer limited.
    async fn take(&self, budget: &mut Budget, application: ApplicationId) -> Result<bool, AcceptError> {
        let now = Instant::now();
        if budget.drawn_at.is_none_or(|at| now - at > KEPT) {
            budget.events = 0;
        }
        if budget.events == 0 {
            if let Some(until) = budget.empty_until.filter(|until| *until > now) {
                return Err(AcceptError::RateLimited(until - now));
            }
            if budget.failed_at.is_some_and(|at| now - at < PAUSE) {
                return Err(AcceptError::Unavailable);
            }
            match ingest::draw(&self.store, application).await {
                Ok(Draw::Granted(events)) => {
                    *budget = Budget { events, drawn_at: Some(now), ..Budget::default() };
                }
                Ok(Draw::Denied(wait)) => {
                    budget.empty_until = Some(now + wait);
                    return Err(AcceptError::RateLimited(wait));
                }
                Ok(Draw::Unlimited) => return Ok(false),
                Err(error) => {
                    budget.failed_at = Some(now);
                    return Err(error.into());
                }
            }
        }
        budget.events -= 1;
        Ok(true)
    }
}
