//! `GET /v1/applications/{application_id}/endpoints/{endpoint_id}/stats`: statistics of recent deliveries.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use poem::web::Data;
use poem_openapi::registry::MetaSchema;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::EndpointId;
use postrider_secrets::endpoints;
use postrider_store::applications::ApplicationRef;
use postrider_store::endpoint_stats;
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::endpoints::unknown;
use crate::web::json_types::Timestamp;
use crate::web::parameter::{InQuery, Parameter, Path};
use crate::web::refused::{INVALID, NOT_FOUND, Refused};
use crate::web::success::Found;
use crate::web::value_error::ValueError;

/// Statistics of the recent deliveries of an endpoint.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EndpointStats {
    /// The id of the endpoint.
    endpoint_id: Uuid,
    /// Start of the period: deliveries created at or after this time are counted. It is the start of the requested
    /// window, or later if there are more deliveries than one call examines.
    from: Timestamp,
    /// End of the period: the time of the request.
    to: Timestamp,
    /// True if the whole window was examined. False if only the newest 20,000 deliveries of the application were
    /// examined; `from` then says how far back they reach.
    is_complete: bool,
    /// The number of deliveries by their current status.
    deliveries: DeliveryCounts,
    /// The share of succeeded deliveries among those that succeeded or became dead letters, from 0 to 1. Null if
    /// there are none.
    success_rate: Option<f64>,
    /// The number of attempts of these deliveries by outcome. At most 20,000 attempts are examined.
    attempts: AttemptCounts,
    /// The duration of these attempts in milliseconds.
    attempt_duration_ms: Percentiles,
    /// The time from acceptance to successful delivery in milliseconds, including retries and waiting.
    success_latency_ms: Percentiles,
}

/// The number of deliveries by status.
#[derive(Debug, Object, Serialize)]
pub(crate) struct DeliveryCounts {
    /// All deliveries.
    total: i64,
    /// Deliveries that wait for their first attempt, or were reopened.
    pending: i64,
    /// Deliveries that are being sent.
    in_progress: i64,
    /// Deliveries that succeeded.
    succeeded: i64,
    /// Deliveries whose last attempt failed and that will be retried.
    failed: i64,
    /// Deliveries that were given up.
    dead_letter: i64,
    /// Deliveries that were cancelled.
    cancelled: i64,
}

/// The number of attempts by outcome.
#[derive(Debug, Object, Serialize)]
pub(crate) struct AttemptCounts {
    /// Attempts that were answered with 2xx.
    succeeded: i64,
    /// Attempts that failed.
    failed: i64,
    /// Attempts that were started and whose outcome is not known.
    unknown: i64,
}

/// Percentiles of a duration in milliseconds. Null if there is no data.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Percentiles {
    /// The median: 50 % took no longer than this.
    p50: Option<f64>,
    /// The 95th percentile.
    p95: Option<f64>,
    /// The 99th percentile.
    p99: Option<f64>,
}

impl Percentiles {
    fn of(values: Option<&[f64]>) -> Self {
        let value = |index| values.and_then(|values| values.get(index)).copied().map(tenths);
        Self { p50: value(0), p95: value(1), p99: value(2) }
    }
}

/// Rounds to tenths of a millisecond. More digits would suggest a precision that is not there.
fn tenths(milliseconds: f64) -> f64 {
    (milliseconds * 10.0).round() / 10.0
}

impl EndpointStats {
    fn of(endpoint: EndpointId, stats: endpoint_stats::EndpointStats) -> Self {
        let deliveries = DeliveryCounts {
            total: stats.pending
                + stats.in_progress
                + stats.succeeded
                + stats.failed
                + stats.dead_letter
                + stats.cancelled,
            pending: stats.pending,
            in_progress: stats.in_progress,
            succeeded: stats.succeeded,
            failed: stats.failed,
            dead_letter: stats.dead_letter,
            cancelled: stats.cancelled,
        };
        let judged = stats.succeeded + stats.dead_letter;
        Self {
            endpoint_id: endpoint.0,
            from: stats.from.into(),
            to: stats.to.into(),
            is_complete: stats.is_complete,
            deliveries,
            success_rate: (judged > 0).then(|| stats.succeeded as f64 / judged as f64),
            attempts: AttemptCounts {
                succeeded: stats.attempts_succeeded,
                failed: stats.attempts_failed,
                unknown: stats.attempts_unknown,
            },
            attempt_duration_ms: Percentiles::of(stats.attempt_percentiles.as_deref()),
            success_latency_ms: Percentiles::of(stats.success_percentiles.as_deref()),
        }
    }
}

/// The length of the window of statistics, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window(i64);

impl Window {
    const DEFAULT: i64 = 86_400;
    const LEAST: i64 = 60;
    const MOST: i64 = 30 * 86_400;
}

impl Parameter for Window {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(Self::LEAST as f64),
            maximum: Some(Self::MOST as f64),
            default: Some(Self::DEFAULT.into()),
            ..MetaSchema::new_with_format("integer", "int32")
        }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let number = text.parse().ok().filter(|number| (Self::LEAST..=Self::MOST).contains(number));
        number.map(Self).ok_or(ValueError::Seconds { least: Self::LEAST, most: Self::MOST })
    }
}

/// The statistics of endpoints.
pub(crate) struct EndpointStatistics;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl EndpointStatistics {
    /// Get the statistics of an endpoint
    ///
    /// Returns counts, the success rate and latencies of the deliveries that were created within the window. One call
    /// examines a limited number of deliveries; `is_complete` and `from` say how far back they reach. Requires the
    /// `read` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/stats",
        method = "get",
        operation_id = "get_endpoint_stats"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
        /// The length of the window in seconds, from one minute to 30 days.
        window_seconds: InQuery<Window>,
    ) -> Result<Found<EndpointStats>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        if endpoints::get(&app.store, application, endpoint_id.0).await?.is_none() {
            return Err(unknown().into());
        }
        let window = window_seconds.0.map_or(Window::DEFAULT, |window| window.0);
        let since = Utc::now() - TimeDelta::seconds(window);
        let stats = endpoint_stats::read(&app.store, application, endpoint_id.0, since).await?;
        Ok(Found::new(EndpointStats::of(endpoint_id.0, stats)))
    }
}
