//! `/v1/applications/{application_id}/endpoints`: where webhooks go.

pub(crate) mod check;
pub(crate) mod fields;
pub(crate) mod filter_test;
pub(crate) mod health;
pub(crate) mod request;
pub(crate) mod secrets;
pub(crate) mod send_test;
pub(crate) mod stats;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::ids::EndpointId;
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::{endpoint_changes, endpoints};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::endpoints::request::{CreateEndpointRequest, UpdateEndpointRequest};
use crate::web::answer::{Created, Done, Found};
use crate::web::body::JsonBody;
use crate::web::page::{Cursor, Page, limit};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::value::{JsonObject, Timestamp};

/// Where webhooks go, and how.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Endpoint {
    /// Its id.
    id: Uuid,
    /// The application it belongs to.
    application_id: Uuid,
    /// Where it is, with `***` in place of the values in its query.
    url: String,
    /// For people.
    description: String,
    /// A JSON object of your own.
    metadata: JsonObject,
    /// Which events it gets: exact types, `prefix.*`, or `*`.
    event_types: Vec<String>,
    /// Which payloads it gets; null: all.
    filter: Option<JsonObject>,
    /// Headers of your own, by name; sensitive values are shown as `***`.
    headers: BTreeMap<String, String>,
    /// Names of the headers whose values are not shown.
    sensitive_headers: Vec<String>,
    /// Webhooks per second; null: no limit.
    rate_limit: Option<i32>,
    /// Webhooks under way at once.
    concurrency_limit: i32,
    /// Attempts of each delivery.
    max_attempts: i32,
    /// Seconds before each retry; null: the schedule of the installation.
    retry_schedule: Option<Vec<i32>>,
    /// Response statuses that are never retried. 2xx always succeeds, and 410 always disables the endpoint.
    permanent_statuses: Vec<i32>,
    /// For one whole exchange.
    timeout_seconds: i32,
    /// Keeps the order of acceptance.
    ordered: bool,
    /// False: new events do not match it, and what is open waits.
    is_active: bool,
    /// Why it is not active; null where it is, or no reason was given.
    disabled_reason: Option<String>,
    /// When it was created.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
}

/// An endpoint that was just created.
#[derive(Debug, Object, Serialize)]
pub(crate) struct CreatedEndpoint {
    #[oai(flatten)]
    #[serde(flatten)]
    endpoint: Endpoint,
    /// What its webhooks are signed with (Standard Webhooks): give it to the receiver. Null for Ed25519, whose
    /// private key is never shown.
    secret: Option<String>,
    /// What its receiver verifies with for Ed25519; else null.
    public_key: Option<String>,
}

impl From<endpoints::Endpoint> for Endpoint {
    fn from(stored: endpoints::Endpoint) -> Self {
        let settings = stored.settings;
        Self {
            id: stored.id.0,
            application_id: stored.application_id.0,
            url: settings.url,
            description: settings.description,
            metadata: JsonObject::rendered(settings.metadata),
            event_types: settings.event_types,
            filter: settings.filter.map(|filter| JsonObject::rendered(filter.json)),
            headers: settings.headers,
            sensitive_headers: settings.sensitive_headers,
            rate_limit: settings.rate_limit,
            concurrency_limit: settings.concurrency_limit,
            max_attempts: settings.max_attempts.into(),
            retry_schedule: settings.retry_schedule,
            permanent_statuses: settings.permanent_statuses.into_iter().map(Into::into).collect(),
            timeout_seconds: settings.timeout_seconds.into(),
            ordered: settings.ordered,
            is_active: stored.is_active,
            disabled_reason: stored.disabled_reason,
            created_at: stored.created_at.into(),
            updated_at: stored.updated_at.into(),
        }
    }
}

/// 404.
pub(crate) fn unknown() -> Problem {
    Problem::not_found("endpoint_not_found", "endpoint")
}

/// 422: it would take too many steps to match an event with the application's endpoints.
fn matching_too_costly(steps: i64, quota: endpoints::EndpointQuota) -> Problem {
    let detail = format!(
        "With this endpoint, filters and event types of the application would take up to {steps} steps for one event, where \
         {} are allowed. Compare with fewer values, above all on paths with `[*]`, and list fewer patterns.",
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
    /// Events that are accepted from now on and match its `event_types` are delivered to it. Needs the
    /// scope `manage`.
    #[oai(
        path = "/applications/:application_id/endpoints",
        method = "post",
        operation_id = "create_endpoint"
    )]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
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
            &new.settings,
            new.is_active,
            &new.key,
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
                    "The application has {} endpoints, as many as it may have.",
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
    /// Newest first. Needs the scope `read`.
    #[oai(path = "/applications/:application_id/endpoints", method = "get", operation_id = "list_endpoints")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
        application_id: Path<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Endpoint>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let cursor = cursor.0.map(|cursor| EndpointId(cursor.0));
        let page = endpoints::list(&app.store, application, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }

    /// Get an endpoint
    ///
    /// Needs the scope `read`.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id",
        method = "get",
        operation_id = "get_endpoint"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
    ) -> Result<Found<Endpoint>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let endpoint = endpoints::get(&app.store, application, endpoint_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(endpoint))
    }

    /// Change an endpoint
    ///
    /// What is absent stays as it is; null means what creation makes of an absent field, except for
    /// `rate_limit`, where it means no limit. Open deliveries follow the new settings, but for their number of
    /// attempts. Needs the scope `manage`.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id",
        method = "patch",
        operation_id = "update_endpoint"
    )]
    async fn update(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
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
    /// No event matches it from now on, and its open deliveries are cancelled within seconds; what is under way
    /// is still recorded. Its deliveries can be read as before. Needs the scope `manage`.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id",
        method = "delete",
        operation_id = "delete_endpoint"
    )]
    async fn delete(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
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
