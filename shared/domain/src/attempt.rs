//! One HTTP exchange: what happened, and what it means for the delivery.

use std::time::{Duration, Instant};

use crate::delivery::{AttemptOutcome, DeliveryStatus, ErrorClass};
use crate::ids::{DeliveryId, LeaseId};

/// An attempt whose outcome is known.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The delivery that was attempted.
    pub delivery_id: DeliveryId,
    /// The lease under which the attempt was sent.
    pub lease_id: LeaseId,
    /// The number of the attempt, from 1.
    pub attempt_number: i16,
    /// When it began, by this machine's monotonic clock. PostgreSQL receives how long ago that was.
    pub began: Instant,
    /// What happened.
    pub exchange: Exchange,
    /// What it means for the delivery.
    pub verdict: Verdict,
}

/// What happened in one HTTP exchange. Fields of stages that it did not reach are empty.
#[derive(Debug, Clone, Default)]
pub struct Exchange {
    /// Where it failed, or `None` if it succeeded.
    pub error_class: Option<ErrorClass>,
    /// How it failed, in one sentence.
    pub error_message: Option<String>,
    /// The headers that were sent, as a JSON array of `{name, value}`. Values of sensitive headers are masked.
    pub request_headers: Option<String>,
    /// The status of the response.
    pub response_status: Option<i16>,
    /// The headers of the response, as a JSON array of `{name, value}`.
    pub response_headers: Option<String>,
    /// The first bytes of the response body.
    pub response_body: Option<Vec<u8>>,
    /// True if the body was longer than what was kept.
    pub response_body_truncated: bool,
    /// True if the request was sent twice because the first connection broke before a response began.
    pub resent: bool,
    /// The time from the DNS lookup to the last byte.
    pub duration: Duration,
}

/// What an attempt means for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The delivery succeeded.
    Succeeded,
    /// The delivery is retried after this delay.
    Retry(Duration),
    /// The delivery becomes a dead letter.
    Dead,
}

impl Verdict {
    /// Returns the status that the delivery has after the attempt.
    #[must_use]
    pub fn status(self) -> DeliveryStatus {
        match self {
            Self::Succeeded => DeliveryStatus::Succeeded,
            Self::Retry(_) => DeliveryStatus::Failed,
            Self::Dead => DeliveryStatus::DeadLetter,
        }
    }

    /// Returns the outcome of the attempt.
    #[must_use]
    pub fn outcome(self) -> AttemptOutcome {
        match self {
            Self::Succeeded => AttemptOutcome::Succeeded,
            Self::Retry(_) | Self::Dead => AttemptOutcome::Failed,
        }
    }

    /// Returns the delay before the next attempt in milliseconds, or `None` if there is none.
    #[must_use]
    pub fn retry_milliseconds(self) -> Option<i64> {
        match self {
            Self::Retry(delay) => Some(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)),
            Self::Succeeded | Self::Dead => None,
        }
    }
}
