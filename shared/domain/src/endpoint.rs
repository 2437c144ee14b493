//! What limits the exchanges with an endpoint, and what they tell of it.

use std::time::Duration;

use crate::ids::EndpointId;

/// The limits of an endpoint that travel with every push, so that nothing in Redis is configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Exchanges at once, across all deliverers.
    pub concurrency: i32,
    /// Requests per second; none: no limit.
    pub rate: Option<i32>,
    /// What PostgreSQL knows of its breaker, for a Redis that does not.
    pub is_breaker_open: bool,
}

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
