//! One HTTP exchange: what happened, and what follows for its delivery.

use std::time::{Duration, Instant};

use crate::delivery::{AttemptOutcome, DeliveryStatus, ErrorClass};
use crate::ids::{DeliveryId, LeaseId};

/// An attempt of known outcome.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Under which lease it was sent.
    pub lease_id: LeaseId,
    /// The attempt's number.
    pub attempt_number: i16,
    /// When it began, by this machine's monotonic clock: PostgreSQL is told how long ago that is.
    pub began: Instant,
    /// What happened.
    pub exchange: Exchange,
    /// What follows.
    pub verdict: Verdict,
}

/// What happened in one HTTP exchange, as far as it came.
#[derive(Debug, Clone, Default)]
pub struct Exchange {
    /// Where it failed; `None`: it did not.
    pub error_class: Option<ErrorClass>,
    /// How it failed, in a sentence.
    pub error_message: Option<String>,
    /// The headers that were sent, sensitive ones masked, as a JSON array of `{name, value}`.
    pub request_headers: Option<String>,
    /// The status of the answer.
    pub response_status: Option<i16>,
    /// The headers of the answer, as a JSON array of `{name, value}`.
    pub response_headers: Option<String>,
    /// The first bytes of the answer's body.
    pub response_body: Option<Vec<u8>>,
    /// True where there was more of it.
    pub response_body_truncated: bool,
    /// True where the request was sent twice: once on a connection that broke before an answer began.
    pub resent: bool,
    /// From the first look-up to the last byte.
    pub duration: Duration,
}

/// What follows from an attempt for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Succeeded,
    /// It is tried again after this delay.
    Retry(Duration),
    /// It is a dead letter.
    Dead,
}

impl Verdict {
    /// The status of the delivery afterwards.
    #[must_use]
    pub fn status(self) -> DeliveryStatus {
        match self {
            Self::Succeeded => DeliveryStatus::Succeeded,
            Self::Retry(_) => DeliveryStatus::Failed,
            Self::Dead => DeliveryStatus::DeadLetter,
        }
    }

    /// The outcome of the attempt.
    #[must_use]
    pub fn outcome(self) -> AttemptOutcome {
        match self {
            Self::Succeeded => AttemptOutcome::Succeeded,
            Self::Retry(_) | Self::Dead => AttemptOutcome::Failed,
        }
    }

    /// The delay before the next attempt, in milliseconds.
    #[must_use]
    pub fn retry_milliseconds(self) -> Option<i64> {
        match self {
            Self::Retry(delay) => Some(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)),
            Self::Succeeded | Self::Dead => None,
        }
    }
}
