//! One attempt, from a claimed delivery to a result that can be recorded.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use http::header::RETRY_AFTER;
use postrider_domain::attempt::{Exchange, Recorded, Verdict};
use postrider_domain::delivery::ErrorClass;
use postrider_domain::retry::{RetrySchedule, parse_retry_after};
use postrider_queue::Reservation;
use postrider_runtime::failpoint;
use postrider_secrets::claim::{Claimed, LEASE_MARGIN, SendSettings, Unrendered};
use tracing::{Instrument as _, Span};

use crate::classify::{Ending, Judgement, Policy, feedback};
use crate::client::{self, Client, Deadline, Failure, Fault, Sent};
use crate::in_flight::Place;
use crate::recorder::Finished;
use crate::request::{self, Outgoing, Unsendable};
use crate::unsent::{self, Outage, Unsent};
use crate::{Deliverer, conceal, metric};

/// Maximum bytes of a response body that are read and kept.
const MAX_RESPONSE_BODY: usize = 16 * 1024;

/// A claim older than this is given back, because sending it could outlast the lease.
const SEND_WITHIN: Duration = LEASE_MARGIN.checked_sub(Duration::from_secs(5)).expect("the margin is longer");

/// A delivery to send, with its lease, reservation and place.
pub(crate) struct Task {
    pub(crate) claimed: Claimed,
    /// When the claim was made, on this machine's monotonic clock. Taken before the lease began.
    pub(crate) claimed_at: Instant,
    pub(crate) reservation: Reservation,
    pub(crate) place: Place,
}

/// Makes an attempt and passes the result to the recorder. A panic within the attempt makes only this attempt fail.
/// After a panic outside the attempt, the sweep takes care of the delivery, as if this deliverer had died.
pub(crate) async fn deliver(deliverer: Arc<Deliverer>, task: Task) {
    let (lease_id, reservation) = (task.claimed.lease_id, task.reservation);
    let span = span(&task);
    let delivered = AssertUnwindSafe(deliver_to_the_end(&deliverer, task)).catch_unwind().instrument(span);
    if delivered.await.is_err() {
        deliverer.leases.abandon(lease_id);
        deliverer.held.remove(&reservation);
    }
}

/// Returns a span that adds ids to every line logged within an attempt. Its level is error, so that warnings and panics
/// have them too. It costs a microsecond.
fn span(Task { claimed, reservation, .. }: &Task) -> Span {
    tracing::error_span!(
        "attempt",
        delivery_id = %claimed.delivery_id,
        event_id = %claimed.event_id,
        endpoint_id = %claimed.endpoint_id,
        application_id = %reservation.application_id,
        attempt = claimed.attempt_number,
    )
}

async fn deliver_to_the_end(deliverer: &Deliverer, task: Task) {
    let Task { claimed, claimed_at, reservation, place } = task;
    if claimed.event.is_err() && unsent::cancel_expunged(deliverer, &claimed, reservation).await {
        return;
    }
    let mut began = Instant::now();
    let attempt = AssertUnwindSafe(attempt(deliverer, &claimed, claimed_at, &mut began)).catch_unwind().await;
    let (exchange, ending) = match attempt {
        Ok(Some(ended)) => ended,
        Ok(None) => {
            let unsent = [Unsent::of(&claimed, reservation)];
            return unsent::give_back(deliverer, &unsent, Outage::Wait).await;
        }
        Err(_) => {
            (Exchange::default(), failed(ErrorClass::Internal, "internal error; the deliverer logged it"))
        }
    };
    let judgement = judge(deliverer, &claimed, ending);
    let finished = finish(&claimed, exchange, judgement, began, reservation, place);
    count(&finished.recorded);
    deliverer.recorder.submit(finished);
}

/// Renders, signs and sends. Returns `None` if nothing was sent: it is too late to send, or there is a fault on our
/// side. Sets `began` to the time of sending.
async fn attempt(
    deliverer: &Deliverer,
    claimed: &Claimed,
    claimed_at: Instant,
    began: &mut Instant,
) -> Option<(Exchange, Ending)> {
    let event = match &claimed.event {
        Ok(event) => event,
        Err(Unrendered { class, reason }) => return Some((Exchange::default(), failed(*class, reason))),
    };
    failpoint::die_at_for("deliverer.before_send", &event.event_type);
    let body = request::body(event);
    let outgoing = match request::sign(claimed, &deliverer.config.keyring, body, SystemTime::now()) {
        Ok(outgoing) => outgoing,
        Err(Unsendable { class, reason }) => {
            return Some((Exchange::default(), failed(class, &reason)));
        }
    };
    if let Err(refused) = deliverer.config.guard.check_host(&outgoing.post.url) {
        return Some((Exchange::default(), Failure::from(refused).into()));
    }
    if deliverer.config.https_only && outgoing.post.url.scheme() != "https" {
        return Some((Exchange::default(), failed(ErrorClass::RefusedAddress, "only https:// is allowed")));
    }
    if claimed_at.elapsed() > SEND_WITHIN {
        return None;
    }
    *began = Instant::now();
    let ended = send(&deliverer.client, outgoing, claimed.endpoint.timeout).await;
    failpoint::die_at("deliverer.after_send");
    match &ended {
        Err(fault) => deliverer.faults.found(&deliverer.health, fault),
        Ok(_) => deliverer.faults.passed(&deliverer.health, *began),
    }
    ended.ok()
}

/// Sends the request and reads the response, all within `timeout`.
///
/// # Errors
/// If nothing was sent because of a fault on our side.
async fn send(client: &Client, outgoing: Outgoing, timeout: Duration) -> Result<(Exchange, Ending), Fault> {
    let deadline = Deadline::after(timeout);
    let Sent { resent, answer } = client.send(outgoing.post, deadline).await;
    let mut exchange =
        Exchange { request_headers: Some(outgoing.shown_headers), resent, ..Exchange::default() };
    let answer = match answer {
        Ok(answer) => answer,
        Err(Failure { fault: Some(fault), .. }) if !resent => return Err(fault),
        Err(failure) => {
            exchange.response_status = failure.status.map(u16::cast_signed);
            return Ok((exchange, failure.into()));
        }
    };
    let status = answer.status().as_u16();
    exchange.response_status = Some(status.cast_signed());
    exchange.response_headers = Some(request::show(answer.headers(), &[]));
    let retry_after = answer
        .headers()
        .get_all(RETRY_AFTER)
        .iter()
        .find_map(|value| parse_retry_after(value.to_str().ok()?, SystemTime::now()));
    let mut body = Vec::new();
    let ending = match deadline.cap(answer.read(MAX_RESPONSE_BODY, &mut body)).await {
        Some(Ok(truncated)) => {
            exchange.response_body_truncated = truncated;
            Ending::Answered { status, retry_after }
        }
        Some(Err(error)) => {
            let message = format!("the answer's body broke off: {}", client::root(&error));
            Ending::Broken { status, class: ErrorClass::Http, message, retry_after }
        }
        None => {
            let message = deadline.exceeded();
            Ending::Broken { status, class: ErrorClass::Timeout, message, retry_after }
        }
    };
    exchange.response_body = Some(body);
    Ok((exchange, ending))
}

fn judge(deliverer: &Deliverer, claimed: &Claimed, ending: Ending) -> Judgement {
    let SendSettings { retry_schedule, permanent_statuses, .. } = &claimed.endpoint;
    let own_schedule = retry_schedule.as_ref().map(|seconds| {
        let delay = |seconds: &i32| Duration::from_secs(u64::from(seconds.unsigned_abs()));
        RetrySchedule::new(seconds.iter().map(delay).collect())
    });
    let policy = Policy {
        attempt_number: claimed.attempt_number.unsigned_abs(),
        max_attempts: claimed.max_attempts.unsigned_abs(),
        permanent_statuses,
        schedule: own_schedule.as_ref().unwrap_or(&deliverer.config.retry_schedule),
    };
    // What cannot be rendered now can never be rendered.
    let is_unrenderable = matches!(&ending, Ending::Failed { class: ErrorClass::Unrenderable, .. });
    let judgement = policy.judge(ending, &mut rand::rng());
    if is_unrenderable { Judgement { verdict: Verdict::Dead, ..judgement } } else { judgement }
}

fn finish(
    claimed: &Claimed,
    exchange: Exchange,
    judgement: Judgement,
    began: Instant,
    reservation: Reservation,
    place: Place,
) -> Finished {
    let duration = began.elapsed();
    let feedback = feedback(&judgement, exchange.response_status, duration);
    let (error_class, error_message) =
        judgement.error.map(|(class, message)| (class, told(&message))).unzip();
    Finished {
        recorded: Recorded {
            delivery_id: claimed.delivery_id,
            lease_id: claimed.lease_id,
            attempt_number: claimed.attempt_number,
            began,
            exchange: Exchange { error_class, error_message, duration, ..exchange },
            verdict: judgement.verdict,
        },
        endpoint_id: claimed.endpoint_id,
        reservation: Some(reservation),
        feedback,
        gone: judgement.is_gone.then(|| claimed.endpoint.url.clone()),
        _place: place,
    }
}

/// Returns an error message as it is recorded for the tenant to read. IP addresses in it appear in the log only.
fn told(message: &str) -> String {
    let told = conceal::addresses(message);
    if told != message {
        tracing::info!(error = message, "an attempt failed");
    }
    // PostgreSQL's `text` cannot hold NUL.
    told.replace('\0', "�")
}

fn count(recorded: &Recorded) {
    let outcome = match recorded.verdict {
        Verdict::Succeeded => "succeeded",
        Verdict::Retry(_) => "retry",
        Verdict::Dead => "dead_letter",
    };
    let class = recorded.exchange.error_class.map_or("none", ErrorClass::as_str);
    metrics::counter!(metric::ATTEMPTS, "outcome" => outcome, "error_class" => class).increment(1);
    metrics::histogram!(metric::EXCHANGE_SECONDS).record(recorded.exchange.duration);
}

impl From<Failure> for Ending {
    fn from(Failure { class, message, status, .. }: Failure) -> Self {
        match status {
            Some(status) => Self::Broken { status, class, message, retry_after: None },
            None => Self::Failed { class, message },
        }
    }
}

fn failed(class: ErrorClass, message: &str) -> Ending {
    Ending::Failed { class, message: message.to_owned() }
}
