//! Records attempts in natural batches: while one statement runs, the next batch gathers.
//!
//! Three loops run concurrently, so that none waits for another: one records attempts that have just ended, one retries
//! those that could not be recorded, and one removes the ids of recorded attempts from Redis.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postrider_domain::attempt::{Exchange, Recorded, Verdict};
use postrider_domain::endpoint::{BreakerChange, Feedback};
use postrider_domain::ids::{DeliveryId, EndpointId};
use postrider_queue::Reservation;
use postrider_secrets::stored_url::StoredUrl;
use postrider_store::StoreError;
use postrider_store::bisect::{Bisect, NoCulprit};
use postrider_store::record::{self, Moved, Written};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{mpsc, watch};

use crate::in_flight::Place;
use crate::{Deliverer, PAUSE, POSTGRESQL, metric};

/// Maximum attempts recorded by one statement.
const BATCH: usize = 128;

/// The health check fails while an attempt has waited longer than this to be recorded.
const NOTICEABLE: Duration = Duration::from_secs(5);

/// An attempt that has ended.
pub(crate) struct Finished {
    pub(crate) recorded: Recorded,
    pub(crate) endpoint_id: EndpointId,
    /// `None` once the id has left Redis.
    pub(crate) reservation: Option<Reservation>,
    /// What the attempt says about the endpoint.
    pub(crate) feedback: Feedback,
    /// The URL, if its receiver responded 410 and wants no more webhooks.
    pub(crate) gone: Option<StoredUrl>,
    /// Held until the attempt is recorded and its id has left Redis, so that the number of waiting attempts is bounded
    /// too.
    pub(crate) _place: Place,
}

impl Finished {
    /// Returns the time since the attempt ended.
    fn age(&self) -> Duration {
        self.recorded.began.elapsed().saturating_sub(self.recorded.exchange.duration)
    }
}

/// Takes finished attempts and passes them to [`run`].
pub(crate) struct Recorder {
    sender: Mutex<Option<UnboundedSender<Finished>>>,
    is_flowing: watch::Sender<bool>,
}

/// Returns a recorder and the receiving end of its channel. The channel is unbounded because permits bound it.
pub(crate) fn channel() -> (Recorder, UnboundedReceiver<Finished>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Recorder { sender: Mutex::new(Some(sender)), is_flowing: watch::Sender::new(true) }, receiver)
}

impl Recorder {
    /// Submits an attempt for recording.
    pub(crate) fn submit(&self, finished: Finished) {
        if let Some(sender) = &*self.sender.lock() {
            let _ = sender.send(finished);
        }
    }

    /// Waits until records can be written.
    pub(crate) async fn flowing(&self) {
        let _ = self.is_flowing.subscribe().wait_for(|is_flowing| *is_flowing).await;
    }

    /// Stops taking attempts. [`run`] ends when all are recorded.
    pub(crate) fn close(&self) {
        self.sender.lock().take();
    }
}

/// Records attempts until the recorder is closed and everything is written.
pub(crate) async fn run(deliverer: Arc<Deliverer>, receiver: UnboundedReceiver<Finished>) {
    let (set_aside, aside) = mpsc::unbounded_channel();
    let (written, done) = mpsc::unbounded_channel();
    tokio::join!(
        record_what_ends(&deliverer, receiver, set_aside, written.clone()),
        record_what_waits(&deliverer, aside, written),
        acknowledge_what_is_written(&deliverer, done),
    );
}

async fn record_what_ends(
    deliverer: &Deliverer,
    mut receiver: UnboundedReceiver<Finished>,
    set_aside: UnboundedSender<Finished>,
    written: UnboundedSender<Finished>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        metrics::histogram!(metric::RECORD_BATCH_SIZE).record(batch.len() as f64);
        for left in write(deliverer, batch.drain(..), &written).await {
            let _ = set_aside.send(left);
        }
    }
}

/// Retries attempts that could not be recorded, usually because their row is locked. Keeps at most a quarter of all
/// permits occupied: beyond that, the oldest are left to the sweep and sent again.
async fn record_what_waits(
    deliverer: &Deliverer,
    mut aside: UnboundedReceiver<Finished>,
    written: UnboundedSender<Finished>,
) {
    let most = (deliverer.config.concurrency / 4).max(1);
    let mut waiting = Vec::new();
    while aside.recv_many(&mut waiting, most).await > 0 {
        while !waiting.is_empty() {
            // The endpoint can continue in the meantime. If an attempt is lost from here on, the sweep finds its lease.
            acknowledge(deliverer, &mut waiting).await;
            tokio::time::sleep(PAUSE).await;
            while let Ok(more) = aside.try_recv() {
                waiting.push(more);
            }
            waiting = write(deliverer, waiting.drain(..), &written).await;
            waiting.sort_by_key(|finished| finished.recorded.began);
            for lost in waiting.drain(..waiting.len().saturating_sub(most)) {
                lose(deliverer, &lost, "too many others wait to be recorded");
            }
            tell(deliverer, &waiting);
        }
    }
}

/// Reports waiting attempts to the health check if they have waited for long.
fn tell(deliverer: &Deliverer, waiting: &[Finished]) {
    metrics::gauge!(metric::RECORDS_WAITING).set(waiting.len() as f64);
    match waiting.iter().find(|finished| finished.age() > NOTICEABLE) {
        None => deliverer.health.up("deliverer_records"),
        Some(first) => {
            let (count, first) = (waiting.len(), first.recorded.delivery_id);
            deliverer.health.down(
                "deliverer_records",
                format!("{count} attempts cannot be recorded yet; delivery {first} may be locked"),
            );
        }
    }
}

async fn acknowledge_what_is_written(deliverer: &Deliverer, mut written: UnboundedReceiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH);
    while written.recv_many(&mut batch, BATCH).await > 0 {
        acknowledge(deliverer, &mut batch).await;
        batch.clear();
    }
}

/// Removes ids from Redis, and passes on what the attempts say about their endpoints.
async fn acknowledge(deliverer: &Deliverer, batch: &mut [Finished]) {
    let done = batch.iter().filter_map(|finished| Some((finished.reservation?, finished.feedback)));
    match deliverer.queue.acknowledge(done).await {
        Ok(changes) => note(deliverer, changes, batch),
        Err(error) => deliverer.redis_failed(error).await,
    }
    for Finished { recorded, endpoint_id, reservation, gone, .. } in batch {
        let Some(reservation) = reservation.take() else { continue };
        deliverer.held.remove(&reservation);
        deliverer.condition.note(*endpoint_id, recorded);
        if let Some(url) = gone.take() {
            deliverer.notes.gone(*endpoint_id, url);
        }
    }
}

/// Passes on the breakers that opened or closed.
fn note(deliverer: &Deliverer, changes: Vec<BreakerChange>, told: &[Finished]) {
    for change in changes {
        let reason = match change {
            BreakerChange::Closed { .. } => None,
            BreakerChange::Opened { endpoint_id, .. } => {
                let mut told = told.iter().filter(|finished| finished.endpoint_id == endpoint_id);
                told.find_map(|finished| finished.recorded.exchange.error_message.clone())
            }
        };
        deliverer.notes.breaker(change, reason);
    }
}

/// Writes what can be written. Waits while nothing can be, during an outage or while everything is locked. Returns the
/// attempts to retry.
async fn write(
    deliverer: &Deliverer,
    batch: impl Iterator<Item = Finished>,
    written: &UnboundedSender<Finished>,
) -> Vec<Finished> {
    let mut left = Vec::new();
    let mut bisect = Bisect::of_parts(apart(batch));
    while let Some(part) = bisect.next() {
        match record(deliverer, &part, true).await {
            Ok(locked) => {
                for finished in part {
                    if locked.contains(&finished.recorded.delivery_id) {
                        left.push(finished);
                    } else {
                        let _ = written.send(finished);
                    }
                }
            }
            Err(error) => {
                if let Err(NoCulprit { part, error }) = bisect.split(part, error) {
                    deliverer.recorder.is_flowing.send_replace(false);
                    if error.is_outage() {
                        deliverer.health.down(POSTGRESQL, error);
                    }
                    tokio::time::sleep(PAUSE).await;
                    bisect.retry(part);
                }
            }
        }
        for (alone, error) in bisect.culprits.drain(..) {
            left.extend(write_alone(deliverer, alone, error, written).await);
        }
    }
    left
}

/// Splits attempts into batches so that no batch has a delivery twice.
fn apart(batch: impl Iterator<Item = Finished>) -> Vec<Vec<Finished>> {
    let mut seen = HashSet::new();
    let (first, again): (Vec<_>, Vec<_>) =
        batch.partition(|finished| seen.insert(finished.recorded.delivery_id));
    let mut parts: Vec<_> = again.into_iter().map(|finished| vec![finished]).collect();
    parts.push(first);
    parts
}

/// Records an attempt that PostgreSQL refuses: without its details, and if that is refused too, only the new state of
/// its delivery. Returns the attempt if the failure is temporary, so that it is retried later.
async fn write_alone(
    deliverer: &Deliverer,
    mut finished: Finished,
    mut error: StoreError,
    written: &UnboundedSender<Finished>,
) -> Option<Finished> {
    let delivery_id = finished.recorded.delivery_id;
    for with_attempt in [true, false] {
        if with_attempt && error.has_no_place_for_attempt() {
            continue;
        }
        if !error.is_data_error() && !error.has_no_place_for_attempt() {
            return Some(finished);
        }
        if with_attempt {
            strip(&mut finished.recorded.exchange, &error);
        }
        match record(deliverer, std::slice::from_ref(&finished), with_attempt).await {
            Ok(locked) if locked.is_empty() => {
                if !with_attempt {
                    tracing::error!(%delivery_id, %error, "attempt not stored; its delivery continues");
                    metrics::counter!(metric::ATTEMPTS_LOST).increment(1);
                }
                let _ = written.send(finished);
                return None;
            }
            Ok(_) => return Some(finished),
            Err(next) => error = next,
        }
    }
    if !error.is_data_error() {
        return Some(finished);
    }
    lose(deliverer, &finished, &error.to_string());
    None
}

/// Gives up recording an attempt and leaves its delivery to the sweep.
fn lose(deliverer: &Deliverer, lost: &Finished, error: &str) {
    let delivery_id = lost.recorded.delivery_id;
    tracing::error!(%delivery_id, error, "the attempt cannot be recorded; its delivery will be sent again");
    metrics::counter!(metric::ATTEMPTS_LOST).increment(1);
    deliverer.leases.abandon(lost.recorded.lease_id);
    if let Some(reservation) = &lost.reservation {
        deliverer.held.remove(reservation);
    }
}

/// Records attempts in one statement. Returns the deliveries that are locked, of which nothing was recorded.
async fn record(
    deliverer: &Deliverer,
    part: &[Finished],
    with_attempts: bool,
) -> Result<HashSet<DeliveryId>, StoreError> {
    let began = Instant::now();
    let results: Vec<&Recorded> = part.iter().map(|finished| &finished.recorded).collect();
    let ended = deliverer.leases.ended_by(&results);
    let number = deliverer.registration.number;
    let Written { moved, locked } =
        record::record(&deliverer.store, number, &results, &ended, with_attempts).await?;
    let recorded = || results.iter().copied().filter(|result| !locked.contains(&result.delivery_id));
    deliverer.leases.recorded(recorded());
    metrics::histogram!(metric::RECORD_SECONDS).record(began.elapsed().as_secs_f64());
    deliverer.recorder.is_flowing.send_if_modified(|flowing| !std::mem::replace(flowing, true));
    measure(recorded(), &moved);
    Ok(locked)
}

/// Measures the delay of first attempts and of successes, by PostgreSQL's clock.
fn measure<'a>(results: impl Iterator<Item = &'a Recorded>, moved: &[Moved]) {
    let ages: HashMap<_, _> = moved.iter().map(|moved| (moved.delivery_id, moved.age)).collect();
    for result in results {
        let Some(age) = ages.get(&result.delivery_id) else { continue };
        if result.attempt_number == 1 {
            let before = age.saturating_sub(result.began.elapsed());
            metrics::histogram!(metric::FIRST_ATTEMPT_DELAY).record(before.as_secs_f64());
        }
        if result.verdict == Verdict::Succeeded {
            metrics::histogram!(metric::SUCCESS_DELAY).record(age.as_secs_f64());
        }
    }
}

/// Removes the details that PostgreSQL may refuse.
fn strip(exchange: &mut Exchange, error: &StoreError) {
    *exchange = Exchange {
        error_class: exchange.error_class,
        error_message: Some(format!("the details of this attempt could not be stored: {error}")),
        response_status: exchange.response_status,
        duration: exchange.duration,
        ..Exchange::default()
    };
}
