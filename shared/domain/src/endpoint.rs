//! The limits on exchanges with an endpoint, and what an exchange says about the endpoint.

use std::time::Duration;

use crate::ids::EndpointId;

/// The limits of an endpoint. They are sent with every push, so that Redis holds no configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most exchanges in flight, across all deliverers.
    pub concurrency: i32,
    /// The most requests per second, or `None` for no limit.
    pub rate: Option<i32>,
    /// Whether the breaker is open according to PostgreSQL, in case Redis does not know.
    pub is_breaker_open: bool,
}

/// What an exchange says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// Nothing: there was no exchange, or it does not count.
    None,
    /// It succeeded: the endpoint may have one more exchange in flight.
    Succeeded,
    /// It failed after this time.
    Failed(Duration),
    /// The endpoint did not respond within this time, or asked for fewer requests. It may have half as many exchanges
    /// in flight.
    Overloaded(Duration),
}

/// A breaker was opened, opened again after a failed probe, or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerChange {
    /// There have been only failures for a while. One delivery is sent as a probe when it is due. The others wait and
    /// spend no attempts.
    Opened {
        /// The endpoint of the breaker.
        endpoint_id: EndpointId,
        /// The delay before the probe.
        probe_after: Duration,
        /// How long the endpoint has been failing.
        failing_for: Duration,
    },
    /// An exchange has succeeded.
    Closed {
        /// The endpoint of the breaker.
        endpoint_id: EndpointId,
    },
}
