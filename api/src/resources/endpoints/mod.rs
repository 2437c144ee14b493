//! `/v1/applications/{application_id}/endpoints`: the endpoints of an application.

pub(crate) mod bodies;
pub(crate) mod check;
pub(crate) mod fields;
pub(crate) mod health;
pub(crate) mod request;
pub(crate) mod secrets;
pub(crate) mod stats;
pub(crate) mod test_webhook;
pub(crate) mod try_filter;

use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::EndpointId;
use postrider_secrets::{endpoint_changes, endpoints};
use postrider_store::applications::ApplicationRef;
use serde::Serialize;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::endpoints::bodies::{CreateEndpointRequest, Endpoint, UpdateEndpointRequest};
use crate::web::body::JsonBody;
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::success::{Created, Done, Found};

/// A new endpoint, including its signing secret or public key.
#[derive(Debug, Object, Serialize)]
pub(crate) struct CreatedEndpoint {
    #[oai(flatten)]
    #[serde(flatten)]
    endpoint: Endpoint,
    /// The secret that webhooks are signed with (Standard Webhooks). The receiver needs it to verify signatures. Null
    /// for Ed25519, because the private key is never shown.
    secret: Option<String>,
    /// The public key that the receiver needs to verify Ed25519 signatures. Null for other algorithms.
    public_key: Option<String>,
}

/// 404: the endpoint does not exist.
pub(crate) fn unknown() -> Problem {
    Problem::not_found("endpoint_not_found", "endpoint")
}

/// 422: matching an event with the application's endpoints would take too many steps.
fn matching_too_costly(steps: i64, quota: endpoints::EndpointQuota) -> Problem {
    let detail = format!(
        "With this endpoint, matching one event with all endpoints of the application would take up to \
         {steps} steps. The limit is {} steps. Compare with fewer values in filters, especially on paths \
         with `[*]`, and use fewer patterns in `event_types`.",
        quota.matching_steps
    );
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "matching_too_costly", detail)
}

/// The operations on endpoints.
pub(crate) struct Endpoints;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl Endpoints {
    /// Create an endpoint
    ///
    /// Creates an endpoint. Events that are accepted from now on and match `event_types` and `filter` are delivered
    /// to the endpoint. Requires the `manage` scope.
    #[oai(
        path = "/applications/:application_id/endpoints",
        method = "post",
        operation_id = "create_endpoint"
    )]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        body: JsonBody<CreateEndpointRequest>,
    ) -> Result<Created<CreatedEndpoint>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let new = body.0.check(&app.url_rules)?;
        let created = endpoints::create(
            &app.store,
            &app.keyring,
            &caller.actor(),
            application,
            &new,
            app.endpoint_quota,
        )
        .await?;
        match created {
            endpoints::Created::Endpoint(endpoint) => {
                let location = format!("/v1/applications/{application}/endpoints/{}", endpoint.id);
                let (secret, public_key) = (new.key.secret(), new.key.public_key());
                let body = CreatedEndpoint { endpoint: (*endpoint).into(), secret, public_key };
                Ok(Created::at(location, body))
            }
            endpoints::Created::TooMany => Err(Problem::new(
                StatusCode::CONFLICT,
                "too_many_endpoints",
                format!(
                    "The application already has {} endpoints, which is the maximum. Delete an endpoint, \
                     then try again.",
                    app.endpoint_quota.endpoints
                ),
            )
            .into()),
            endpoints::Created::MatchingTooCostly(steps) => {
                Err(matching_too_costly(steps, app.endpoint_quota).into())
            }
            endpoints::Created::UnknownApplication => {
                Err(Problem::not_found("application_not_found", "application").into())
            }
        }
    }

    /// List endpoints
    ///
    /// Returns the endpoints of the application, newest first. Requires the `read` scope.
    #[oai(path = "/applications/:application_id/endpoints", method = "get", operation_id = "list_endpoints")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Endpoint>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let page = endpoints::list(&app.store, application, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }

    /// Get an endpoint
    ///
    /// Returns an endpoint with its settings, but without secrets. Requires the `read` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id",
        method = "get",
        operation_id = "get_endpoint"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
    ) -> Result<Found<Endpoint>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let endpoint = endpoints::get(&app.store, application, endpoint_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(endpoint))
    }

    /// Update an endpoint
    ///
    /// Updates an endpoint. Absent fields keep their value. Null sets a field to its default, except for
    /// `rate_limit`, where null removes the limit. The new settings also apply to open deliveries, except for
    /// `max_attempts`, `event_types` and `filter`. Retries that are already scheduled keep their time. Requires the
    /// `manage` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id",
        method = "patch",
        operation_id = "update_endpoint"
    )]
    async fn update(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
        body: JsonBody<UpdateEndpointRequest>,
    ) -> Result<Found<Endpoint>, Refused<{ BODY | NOT_FOUND }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let change = |current: &endpoints::Endpoint| body.0.apply(current, &app.url_rules);
        let (keyring, actor, quota) = (&app.keyring, &caller.actor(), app.endpoint_quota);
        let updated =
            endpoint_changes::update(&app.store, keyring, actor, application, endpoint_id.0, quota, change)
                .await?;
        match updated {
            endpoint_changes::Updated::Endpoint(endpoint) => Ok(Found::new(*endpoint)),
            endpoint_changes::Updated::MatchingTooCostly(steps) => {
                Err(matching_too_costly(steps, quota).into())
            }
            endpoint_changes::Updated::Unknown => Err(unknown().into()),
        }
    }

    /// Delete an endpoint
    ///
    /// Deletes an endpoint. It no longer matches events, and its open deliveries are cancelled within seconds.
    /// Attempts that are already being sent are still recorded. The deliveries of the endpoint can still be read.
    /// Requires the `manage` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id",
        method = "delete",
        operation_id = "delete_endpoint"
    )]
    async fn delete(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
    ) -> Result<Done, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        if endpoint_changes::delete(&app.store, &caller.actor(), application, endpoint_id.0).await? {
            Ok(Done)
        } else {
            Err(unknown().into())
        }
    }
}
