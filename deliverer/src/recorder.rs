//! Records what was sent, in natural batches: while one statement is under way, the next batch gathers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use postrider_shared::ids::EndpointId;
use postrider_shared::queue::{BreakerChange, Feedback, Reservation};
use postrider_shared::store::endpoint_changes::{self, Cause};
use postrider_shared::store::record::{self, Exchange, Moved, Recorded, Verdict};
use postrider_shared::store::stored_url::StoredUrl;
use postrider_shared::store::{StoreError, health};
use tokio::sync::{mpsc, watch};

use crate::in_flight::Place;
use crate::{Deliverer, PAUSE};

/// Attempts that are recorded in one statement.
const BATCH: usize = 128;

/// An attempt that is over.
pub(crate) struct Finished {
    pub(crate) recorded: Recorded,
    pub(crate) reservation: Reservation,
    /// What it told of its endpoint.
    pub(crate) feedback: Feedback,
    /// The receiver at this URL wants no more webhooks.
    pub(crate) gone: Option<StoredUrl>,
    /// Kept until it is recorded, so that what waits here is bounded too.
    pub(crate) place: Place,
}

/// Where finished attempts are handed in.
pub(crate) struct Recorder {
    sender: Mutex<Option<mpsc::UnboundedSender<Finished>>>,
    is_flowing: watch::Sender<bool>,
}

/// A recorder, and what it is handed. The channel needs no bound: the permits are one.
pub(crate) fn channel() -> (Recorder, mpsc::UnboundedReceiver<Finished>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Recorder { sender: Mutex::new(Some(sender)), is_flowing: watch::Sender::new(true) }, receiver)
}

impl Recorder {
    /// Hands an attempt in.
    pub(crate) fn submit(&self, finished: Finished) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = sender.send(finished);
        }
    }

    /// Waits while records cannot be written.
    pub(crate) async fn flowing(&self) {
        let _ = self.is_flowing.subscribe().wait_for(|is_flowing| *is_flowing).await;
    }

    /// Takes nothing more; [`run`] ends when all is recorded.
    pub(crate) fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Records until the recorder is closed and everything is written.
pub(crate) async fn run(deliverer: Arc<Deliverer>, mut receiver: mpsc::UnboundedReceiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        for finished in &batch {
            deliverer.condition.note(finished.reservation.endpoint_id, &finished.recorded);
        }
        let (recorded, rest): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|finished| {
                let told = Told::of(&finished);
                (finished.recorded, (told, finished.gone, finished.place))
            })
            .unzip();
        metrics::histogram!("postrider_record_batch_size").record(recorded.len() as f64);
        write(&deliverer, recorded).await;
        // Only now, with all of it in PostgreSQL, do the ids leave Redis.
        acknowledge(&deliverer, rest.iter().map(|(told, ..)| told)).await;
        for (told, gone, _place) in rest {
            deliverer.held.remove(&told.reservation);
            if let Some(url) = gone {
                disable(&deliverer, told.reservation.endpoint_id, url).await;
            }
        }
    }
}

/// What an attempt told of its endpoint.
struct Told {
    reservation: Reservation,
    feedback: Feedback,
    error: Option<String>,
}

impl Told {
    fn of(finished: &Finished) -> Self {
        Self {
            reservation: finished.reservation,
            feedback: finished.feedback,
            error: finished.recorded.exchange.error_message.clone(),
        }
    }
}

/// Acknowledges, and notes the breakers that this opens or closes.
async fn acknowledge<'a>(deliverer: &Deliverer, told: impl Iterator<Item = &'a Told> + Clone) {
    let done = told.clone().map(|told| (told.reservation, told.feedback));
    let changes = match deliverer.queue.acknowledge(done).await {
        Ok(changes) => changes,
        Err(error) => return deliverer.health.down("deliverer_redis", error),
    };
    if changes.is_empty() {
        return;
    }
    let with_reason = |change: BreakerChange| {
        let BreakerChange::Opened { endpoint_id, .. } = change else { return (change, None) };
        let mut errors = told.clone().filter(|told| told.reservation.endpoint_id == endpoint_id);
        (change, errors.find_map(|told| told.error.clone()))
    };
    let changes: Vec<_> = changes.into_iter().map(with_reason).collect();
    if let Err(error) = health::note(&deliverer.store, &changes).await {
        tracing::warn!(%error, "the state of a circuit breaker could not be noted");
    }
}

/// Writes until it is written. Where one attempt spoils the statement for all, the batch is halved until
/// it is alone.
async fn write(deliverer: &Deliverer, mut results: Vec<Recorded>) {
    loop {
        let began = Instant::now();
        let ended = deliverer.leases.ended_by(&results);
        let error = match record::record(&deliverer.store, &results, &ended).await {
            Ok(moved) => {
                deliverer.leases.recorded(&results);
                metrics::histogram!("postrider_record_seconds").record(began.elapsed().as_secs_f64());
                deliverer.recorder.is_flowing.send_if_modified(|flowing| !std::mem::replace(flowing, true));
                return measure(&results, &moved);
            }
            Err(error) => error,
        };
        let is_data_error = error.is_data_error();
        if is_data_error && results.len() > 1 {
            let second = results.split_off(results.len() / 2);
            Box::pin(write(deliverer, results)).await;
            return Box::pin(write(deliverer, second)).await;
        }
        if is_data_error && !strip(&mut results, &error) {
            // Not even without its details: the lease is left to the sweep.
            deliverer.leases.abandon(results[0].lease_id);
            tracing::error!(delivery_id = %results[0].delivery_id, %error, "the attempt cannot be recorded");
            return;
        }
        if !is_data_error {
            if !error.is_contention() {
                deliverer.recorder.is_flowing.send_replace(false);
                deliverer.health.down("deliverer_postgresql", error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Notes how long first attempts and successes were in coming, by the clock of PostgreSQL.
fn measure(results: &[Recorded], moved: &[Moved]) {
    let ages: HashMap<_, _> = moved.iter().map(|moved| (moved.delivery_id, moved.age)).collect();
    for result in results {
        let Some(age) = ages.get(&result.delivery_id) else { continue };
        if result.attempt_number == 1 {
            let before = age.saturating_sub(result.exchange.duration);
            metrics::histogram!("postrider_first_attempt_delay_seconds").record(before.as_secs_f64());
        }
        if result.verdict == Verdict::Succeeded {
            metrics::histogram!("postrider_success_delay_seconds").record(age.as_secs_f64());
        }
    }
}

/// Leaves away what PostgreSQL may refuse of an attempt. False: there was nothing to leave away.
fn strip(results: &mut [Recorded], error: &StoreError) -> bool {
    let mut was_stripped = false;
    for result in results {
        let exchange = &mut result.exchange;
        was_stripped |= exchange.request_headers.is_some() || exchange.response_headers.is_some();
        *exchange = Exchange {
            error_class: exchange.error_class,
            error_message: Some(format!("the details of this attempt could not be stored: {error}")),
            response_status: exchange.response_status,
            duration: exchange.duration,
            ..Exchange::default()
        };
    }
    was_stripped
}

async fn disable(deliverer: &Deliverer, endpoint_id: EndpointId, url: StoredUrl) {
    let reason = "the receiver answered 410 Gone";
    match endpoint_changes::disable(&deliverer.store, endpoint_id, reason, &Cause::Answer(url)).await {
        Ok(true) => tracing::warn!(%endpoint_id, reason, "endpoint disabled"),
        Ok(false) => {}
        // The next answer does it.
        Err(error) => tracing::warn!(%endpoint_id, %error, "the endpoint could not be disabled"),
    }
}
