//! `GET /v1/applications/{application_id}/endpoints/{endpoint_id}/stats`: how it goes.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use poem::web::Data;
use poem_openapi::registry::MetaSchema;
use poem_openapi::{Object, OpenApi};
use postrider_shared::ids::EndpointId;
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::{endpoint_stats, endpoints};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::endpoints::unknown;
use crate::web::answer::Found;
use crate::web::parameter::{InQuery, Parameter, Path};
use crate::web::refused::{INVALID, NOT_FOUND, Refused};
use crate::web::value::Timestamp;

/// How the deliveries of an endpoint went lately.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EndpointStats {
    /// The endpoint.
    endpoint_id: Uuid,
    /// What was created at this time or later is counted: the beginning of the window, or a later time where
    /// there was more than one call looks at.
    from: Timestamp,
    /// When it was counted.
    to: Timestamp,
    /// True: the whole window was looked at. False: only the newest 20,000 deliveries of the application were,
    /// and `from` says how far they reach.
    is_complete: bool,
    /// The deliveries, by where they stand now.
    deliveries: DeliveryCounts,
    /// Of those that succeeded or are dead letters, the part that succeeded, 0 to 1; null: there is none.
    success_rate: Option<f64>,
    /// The attempts of these deliveries.
    attempts: AttemptCounts,
    /// How long attempts took, in milliseconds.
    attempt_duration_ms: Percentiles,
    /// How long it took from acceptance to success, retries and waiting included, in milliseconds.
    success_latency_ms: Percentiles,
}

/// Numbers of deliveries.
#[derive(Debug, Object, Serialize)]
pub(crate) struct DeliveryCounts {
    /// All of them.
    total: i64,
    /// Not attempted yet.
    pending: i64,
    /// Under way.
    in_progress: i64,
    /// Arrived.
    succeeded: i64,
    /// Failed, with a retry due.
    failed: i64,
    /// Failed for good.
    dead_letter: i64,
    /// Withdrawn.
    cancelled: i64,
}

/// Numbers of attempts.
#[derive(Debug, Object, Serialize)]
pub(crate) struct AttemptCounts {
    /// Answered 2xx.
    succeeded: i64,
    /// Anything else that is known.
    failed: i64,
    /// Begun, and nobody knows what came.
    unknown: i64,
}

/// Percentiles of durations in milliseconds; null where there was none.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Percentiles {
    /// Half of them took no longer.
    p50: Option<f64>,
    /// 95 % of them took no longer.
    p95: Option<f64>,
    /// 99 % of them took no longer.
    p99: Option<f64>,
}

impl Percentiles {
    fn of(values: Option<&[f64]>) -> Self {
        let value = |index| values.and_then(|values| values.get(index)).copied().map(tenths);
        Self { p50: value(0), p95: value(1), p99: value(2) }
    }
}

/// More digits would only pretend.
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

/// How far back statistics go, in seconds.
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

    fn parse(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| (Self::LEAST..=Self::MOST).contains(number));
        number.map(Self).ok_or_else(|| {
            format!("must be a whole number of seconds from {} to {}", Self::LEAST, Self::MOST)
        })
    }
}

/// The statistics of endpoints.
pub(crate) struct EndpointStatistics;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl EndpointStatistics {
    /// Get the statistics of an endpoint
    ///
    /// Of its deliveries that were created within the window: counts, success rate and latencies. One call looks at
    /// a bounded number of deliveries and says how far back they reach. Needs the scope `read`.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/stats",
        method = "get",
        operation_id = "get_endpoint_stats"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
        /// How far back to look, in seconds: a minute to 30 days.
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
