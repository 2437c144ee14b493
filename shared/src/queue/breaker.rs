//! What exchanges tell of their endpoints, and what follows: slow start and circuit breaker in one number,
//! how many exchanges an endpoint may have at once.

use std::time::Duration;

use redis::RedisError;

use super::{QueueError, uuid};
use crate::ids::EndpointId;

/// What an exchange told of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// Nothing: there was none, or it does not count.
    None,
    /// It works: it may have one exchange more at once.
    Succeeded,
    /// It failed after this time.
    Failed(Duration),
    /// It did not answer within this time, or asked for less: it may have half as many at once.
    Overloaded(Duration),
}

impl Feedback {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Succeeded => "+",
            Self::Failed(_) => "!",
            Self::Overloaded(_) => "<",
        }
    }

    pub(super) fn took(self) -> Duration {
        match self {
            Self::None | Self::Succeeded => Duration::ZERO,
            Self::Failed(took) | Self::Overloaded(took) => took,
        }
    }
}

/// A breaker was opened, again after a probe that failed, or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerChange {
    /// Nothing but failures for a while: one delivery is sent as a probe when the time comes, the others
    /// wait without spending their attempts.
    Opened {
        /// Whose.
        endpoint_id: EndpointId,
        /// When it is probed, from now.
        probe_after: Duration,
        /// For how long it has been failing.
        failing_for: Duration,
    },
    /// It has succeeded.
    Closed {
        /// Whose.
        endpoint_id: EndpointId,
    },
}

/// Reads the answer of the acknowledging script.
pub(super) fn changes(answer: Vec<redis::Value>) -> Result<Vec<BreakerChange>, QueueError> {
    let mut values = answer.into_iter();
    let mut changes = Vec::new();
    while let (Some(endpoint), Some(state), Some(probe), Some(failing)) =
        (values.next(), values.next(), values.next(), values.next())
    {
        let endpoint_id = EndpointId(uuid(endpoint)?);
        let milliseconds = |value| -> Result<Duration, QueueError> {
            Ok(Duration::from_millis(redis::from_redis_value(value).map_err(RedisError::from)?))
        };
        let state: String = redis::from_redis_value(state).map_err(RedisError::from)?;
        changes.push(if state == "open" {
            let (probe_after, failing_for) = (milliseconds(probe)?, milliseconds(failing)?);
            BreakerChange::Opened { endpoint_id, probe_after, failing_for }
        } else {
            BreakerChange::Closed { endpoint_id }
        });
    }
    Ok(changes)
}
