//! Writes to PostgreSQL what exchanges say about endpoints: breakers that opened or closed, and receivers that
//! responded 410. This is separate from recording, which must not wait for a lock on an endpoint.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::endpoint::BreakerChange;
use postrider_domain::ids::EndpointId;
use postrider_runtime::every::{Next, Step};
use postrider_secrets::endpoint_changes::{self, Cause};
use postrider_secrets::stored_url::StoredUrl;
use postrider_store::bisect::Bisect;
use postrider_store::{StoreError, health};
use tokio::sync::Notify;

use crate::{Deliverer, StepError};

/// Delay before a note is tried again after a lock conflict or an outage.
pub(crate) const CADENCE: Duration = Duration::from_secs(1);

/// Notes that wait to be written: the latest of each endpoint.
#[derive(Default)]
pub(crate) struct Notes {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    /// The change, and the last error of the endpoint.
    breakers: HashMap<EndpointId, (BreakerChange, Option<String>)>,
    /// The URL that responded 410.
    gone: HashMap<EndpointId, StoredUrl>,
}

impl Waiting {
    /// Adds notes that are older than those already present, and never replaces one.
    fn add_older(&mut self, older: Self) {
        for (endpoint, change) in older.breakers {
            self.breakers.entry(endpoint).or_insert(change);
        }
        for (endpoint, url) in older.gone {
            self.gone.entry(endpoint).or_insert(url);
        }
    }

    fn is_empty(&self) -> bool {
        self.breakers.is_empty() && self.gone.is_empty()
    }
}

impl Notes {
    /// Notes that a breaker opened or closed.
    pub(crate) fn breaker(&self, change: BreakerChange, reason: Option<String>) {
        self.change(|waiting| waiting.breakers.insert(endpoint_of(&change), (change, reason)));
    }

    /// Notes that the receiver at this URL responded 410.
    pub(crate) fn gone(&self, endpoint: EndpointId, url: StoredUrl) {
        self.change(|waiting| waiting.gone.insert(endpoint, url));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) {
        change(&mut self.waiting.lock());
        self.arrived.notify_one();
    }

    fn take(&self) -> Waiting {
        std::mem::take(&mut self.waiting.lock())
    }
}

fn endpoint_of(change: &BreakerChange) -> EndpointId {
    match *change {
        BreakerChange::Opened { endpoint_id, .. } | BreakerChange::Closed { endpoint_id } => endpoint_id,
    }
}

/// Writes notes as soon as there are any.
pub(crate) struct NoteWriter;

impl Step<Deliverer> for NoteWriter {
    async fn run(&mut self, deliverer: &Arc<Deliverer>) -> Result<Next, StepError> {
        let left = note(deliverer, deliverer.notes.take()).await;
        if left.is_empty() {
            return Ok(Next::Later);
        }
        deliverer.notes.change(|waiting| waiting.add_older(left));
        Ok(Next::After(CADENCE))
    }

    async fn woken(&mut self, deliverer: &Arc<Deliverer>) -> Result<(), StepError> {
        deliverer.notes.arrived.notified().await;
        Ok(())
    }
}

/// Writes notes. Returns those to try again later.
async fn note(deliverer: &Deliverer, waiting: Waiting) -> Waiting {
    let Waiting { breakers, gone } = waiting;
    let mut left = Waiting::default();
    let mut bisect = Bisect::of(breakers.values().cloned().collect());
    while let Some(part) = bisect.next() {
        if let Err(error) = health::note(&deliverer.store, &part).await
            && bisect.split(part, error).is_err()
        {
            return Waiting { breakers, gone };
        }
    }
    for (change, error) in bisect.culprits {
        let endpoint = endpoint_of(&change.0);
        if passes(&error, endpoint) {
            left.breakers.insert(endpoint, change);
        }
    }
    for (endpoint, url) in gone {
        if let Err(error) = disable(deliverer, endpoint, &url).await
            && passes(&error, endpoint)
        {
            left.gone.insert(endpoint, url);
        }
    }
    left
}

/// Returns true if the same note may succeed later. Any other error is logged, and the endpoint's next exchange makes
/// the note again.
fn passes(error: &StoreError, endpoint_id: EndpointId) -> bool {
    let passes = error.is_outage() || error.is_contention();
    if !passes {
        tracing::warn!(%endpoint_id, %error, "the state of an endpoint could not be written");
    }
    passes
}

async fn disable(deliverer: &Deliverer, endpoint_id: EndpointId, url: &StoredUrl) -> Result<(), StoreError> {
    let reason = "the receiver answered 410 Gone";
    let cause = Cause::Gone(url.clone());
    if endpoint_changes::disable(&deliverer.store, endpoint_id, reason, &cause).await? {
        tracing::warn!(%endpoint_id, reason, "endpoint disabled");
    }
    Ok(())
}
