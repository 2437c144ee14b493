//! Records what was sent, in natural batches: while one statement is under way, the next batch gathers.
//!
//! Three things go on side by side, none of which waits for another: what has just ended is recorded, what could not
//! be recorded is tried again, and of what is recorded the ids leave Redis.

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

/// Attempts that are recorded in one statement.
const BATCH: usize = 128;

/// What has waited for longer than this to be recorded is made known.
const NOTICEABLE: Duration = Duration::from_secs(5);

/// An attempt that is over.
pub(crate) struct Finished {
    pub(crate) recorded: Recorded,
    pub(crate) endpoint_id: EndpointId,
    /// `None` once its id has left Redis.
    pub(crate) reservation: Option<Reservation>,
    /// What it told of its endpoint.
    pub(crate) feedback: Feedback,
    /// The receiver at this URL wants no more webhooks.
    pub(crate) gone: Option<StoredUrl>,
    /// Kept until it is recorded and its id has left Redis, so that what waits here is bounded too.
    pub(crate) _place: Place,
}

impl Finished {
    /// For how long it has been over.
    fn age(&self) -> Duration {
        self.recorded.began.elapsed().saturating_sub(self.recorded.exchange.duration)
    }
}

/// Where finished attempts are handed in.
pub(crate) struct Recorder {
    sender: Mutex<Option<UnboundedSender<Finished>>>,
    is_flowing: watch::Sender<bool>,
}

/// A recorder, and what it is handed. The channel needs no bound: the permits are one.
pub(crate) fn channel() -> (Recorder, UnboundedReceiver<Finished>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Recorder { sender: Mutex::new(Some(sender)), is_flowing: watch::Sender::new(true) }, receiver)
}

impl Recorder {
    /// Hands an attempt in.
    pub(crate) fn submit(&self, finished: Finished) {
        if let Some(sender) = &*self.sender.lock() {
            let _ = sender.send(finished);
        }
    }

    /// Waits while no records can be written.
    pub(crate) async fn flowing(&self) {
        let _ = self.is_flowing.subscribe().wait_for(|is_flowing| *is_flowing).await;
    }

    /// Takes nothing more; [`run`] ends when all is recorded.
    pub(crate) fn close(&self) {
        self.sender.lock().take();
    }
}

/// Records until the recorder is closed and everything is written.
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

/// Tries again what could not be recorded: its row is locked, for the most part. No more of it is kept than a quarter
/// of all permits: what is beyond that is left to the sweep, and sent again.
async fn record_what_waits(
    deliverer: &Deliverer,
    mut aside: UnboundedReceiver<Finished>,
    written: UnboundedSender<Finished>,
) {
    let most = (deliverer.config.concurrency / 4).max(1);
    let mut waiting = Vec::new();
    while aside.recv_many(&mut waiting, most).await > 0 {
        while !waiting.is_empty() {
            // Its endpoint can go on meanwhile: what is lost from here on is found by its lease.
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

/// Says what waits, where that lasts.
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

/// Takes ids out of Redis, and hands on what the exchanges have told of their endpoints.
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

/// Hands on the breakers that this has opened or closed.
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

/// Writes what can be written, and waits while nothing can: in an outage, or while everything is locked. Returns what is
/// to be tried again.
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

/// Batches in none of which a delivery is twice.
fn apart(batch: impl Iterator<Item = Finished>) -> Vec<Vec<Finished>> {
    let mut seen = HashSet::new();
    let (first, again): (Vec<_>, Vec<_>) =
        batch.partition(|finished| seen.insert(finished.recorded.delivery_id));
    let mut parts: Vec<_> = again.into_iter().map(|finished| vec![finished]).collect();
    parts.push(first);
    parts
}

/// An attempt that PostgreSQL refuses is recorded without its details, and where that is refused too its delivery goes
/// on without it. Returned where none of that is to blame, so that it may be recorded later.
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
                    tracing::error!(%delivery_id, %error, "the attempt cannot be stored; its delivery goes on");
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

/// Leaves the delivery to the sweep.
fn lose(deliverer: &Deliverer, lost: &Finished, error: &str) {
    let delivery_id = lost.recorded.delivery_id;
    tracing::error!(%delivery_id, error, "the attempt cannot be recorded; its delivery will be sent again");
    metrics::counter!(metric::ATTEMPTS_LOST).increment(1);
    deliverer.leases.abandon(lost.recorded.lease_id);
    if let Some(reservation) = &lost.reservation {
        deliverer.held.remove(reservation);
    }
}

/// Records together. Returns the deliveries that are locked, of which nothing is recorded.
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

/// Notes how long first attempts and successes were in coming, by the clock of PostgreSQL.
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

/// Leaves away what PostgreSQL may refuse of an attempt.
fn strip(exchange: &mut Exchange, error: &StoreError) {
    *exchange = Exchange {
        error_class: exchange.error_class,
        error_message: Some(format!("the details of this attempt could not be stored: {error}")),
        response_status: exchange.response_status,
        duration: exchange.duration,
        ..Exchange::default()
    };
}
