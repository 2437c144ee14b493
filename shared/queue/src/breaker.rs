//! What exchanges say about their endpoints, and the consequences. Slow start and circuit breaker are one number: the
//! exchanges that an endpoint may have in flight.

use std::time::Duration;

use postrider_domain::endpoint::{BreakerChange, Feedback};
use postrider_domain::ids::EndpointId;
use redis::RedisError;

use super::{QueueError, uuid};

/// Encodes feedback for the acknowledging script: a sign, and how long the exchange took.
pub(super) fn encode(feedback: Feedback) -> (&'static str, Duration) {
    match feedback {
        Feedback::None => ("-", Duration::ZERO),
        Feedback::Succeeded => ("+", Duration::ZERO),
        Feedback::Failed(took) => ("!", took),
        Feedback::Overloaded(took) => ("<", took),
    }
}

/// Decodes the response of the acknowledging script.
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
