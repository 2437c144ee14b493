//! The limit of what an application may publish, for all APIs together.
//!
//! Which producers are limited is known here as a guess only: the statement that stores an event refuses it
//! where the budget of its application was not asked. The budget is kept in PostgreSQL, and drawn from in
//! advance for a tenth of a second, so that most events cost no statement of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use postrider_domain::event::{NewEvent, Producer};
use postrider_domain::ids::ApplicationId;
use postrider_store::Store;
use postrider_store::ingest::{self, Draw};
use tokio::sync::Mutex;

use crate::accept::error::AcceptError;

/// Producers, and applications, that are remembered.
const MAX_KNOWN: u64 = 100_000;
/// What was drawn in advance is of no use after this time.
const KEPT: Duration = Duration::from_secs(1);
/// After a failure nothing is drawn for this long, and who would is told to come back.
const PAUSE: Duration = Duration::from_secs(1);

/// The producers that are known to be limited, and what may be published of their budgets here.
pub(crate) struct IngestLimits {
    store: Store,
    limited: Cache<Producer, ApplicationId>,
    budgets: Cache<ApplicationId, Arc<Mutex<Budget>>>,
}

/// What this process knows of a budget. Whoever draws from it holds it, so that nobody else does meanwhile.
#[derive(Default)]
struct Budget {
    events: u32,
    drawn_at: Option<Instant>,
    /// There is nothing to be had before.
    empty_until: Option<Instant>,
    failed_at: Option<Instant>,
}

impl IngestLimits {
    /// Knows nothing yet.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, limited: Cache::new(MAX_KNOWN), budgets: Cache::new(MAX_KNOWN) }
    }

    /// Takes an event off the budget of its application, where that is known to have one.
    ///
    /// # Errors
    /// When the budget is spent, or PostgreSQL is unavailable.
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

    /// Learns that the application of a producer is limited.
    pub(crate) fn learn(&self, producer: Producer, application: ApplicationId) {
        self.limited.insert(producer, application);
    }

    /// Forgets a producer that is none: its key was revoked.
    pub(crate) fn forget(&self, producer: &Producer) {
        self.limited.invalidate(producer);
    }

    /// Takes one event. False: there is no limit any more.
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
