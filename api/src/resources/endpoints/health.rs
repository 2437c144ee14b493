//! `…/endpoints/{endpoint_id}/health`: the state of an endpoint's circuit breaker.

use std::sync::Arc;

use chrono::Utc;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::EndpointId;
use postrider_secrets::endpoints;
use postrider_store::applications::ApplicationRef;
use postrider_store::health;
use serde::Serialize;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::web::json_types::Timestamp;
use crate::web::parameter::Path;
use crate::web::problem::Problem;
use crate::web::refused::{NOT_FOUND, Refused};
use crate::web::success::Found;

/// The state of the circuit breaker of an endpoint.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EndpointHealth {
    /// The state of the circuit breaker. `closed`: deliveries are sent normally. `open`: all recent attempts failed,
    /// and deliveries that are due wait without using up attempts. `half_open`: a single delivery is due to be sent
    /// as a probe.
    state: String,
    /// Why the last attempt failed. Null if the state is `closed`.
    reason: Option<String>,
    /// Since when all attempts to this endpoint have failed. Null if the last attempts did not fail. An endpoint that
    /// keeps failing is disabled automatically after `POSTRIDER_AUTO_DISABLE_DAYS`, 5 days by default. If this is
    /// turned off, the field is only set while the state is not `closed`.
    failing_since: Option<Timestamp>,
    /// When the next probe is due. Null if the state is `closed`.
    next_probe_at: Option<Timestamp>,
}

impl From<health::EndpointHealth> for EndpointHealth {
    fn from(stored: health::EndpointHealth) -> Self {
        let state = match (stored.is_open, stored.next_probe_at) {
            (false, _) => "closed",
            (true, Some(at)) if at <= Utc::now() => "half_open",
            (true, _) => "open",
        };
        Self {
            state: state.to_owned(),
            reason: stored.reason,
            failing_since: stored.failing_since.map(Into::into),
            next_probe_at: stored.next_probe_at.map(Into::into),
        }
    }
}

/// The operation that reads the health of an endpoint.
pub(crate) struct Healths;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl Healths {
    /// Get the health of an endpoint
    ///
    /// Returns the state of the endpoint's circuit breaker. Requires the `read` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/health",
        method = "get",
        operation_id = "get_endpoint_health"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
    ) -> Result<Found<EndpointHealth>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let endpoint = endpoints::get(&app.store, application, endpoint_id.0).await?;
        endpoint.ok_or_else(|| Problem::not_found("endpoint_not_found", "endpoint"))?;
        Ok(Found::new(health::get(&app.store, endpoint_id.0).await?))
    }
}
