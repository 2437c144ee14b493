//! `/v1/applications/{application_id}/endpoints`: where webhooks go.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::ids::EndpointId;
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::endpoints;
use serde::Serialize;
use uuid::Uuid;

use crate::answer::{Created, Found};
use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::body::JsonBody;
use crate::endpoint_request::CreateEndpointRequest;
use crate::page::{Cursor, Page, limit};
use crate::parameter::{InQuery, Path};
use crate::parameter_values::Limit;
use crate::problem::Problem;
use crate::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::value::{JsonObject, Timestamp};

/// What stands for the value of a sensitive header.
const MASK: &str = "***";

/// Where webhooks go, and how.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Endpoint {
    /// Its id.
    id: Uuid,
    /// The application it belongs to.
    application_id: Uuid,
    /// Where it is.
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
    /// Response statuses that are never retried; null: the default list.
    permanent_statuses: Option<Vec<i32>>,
    /// For one whole exchange.
    timeout_seconds: i32,
    /// Keeps the order of acceptance.
    ordered: bool,
    /// False: new events do not match it, and what is open waits.
    is_active: bool,
    /// Why it is not active; null where it is, or was made so by hand.
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
    /// What its webhooks are signed with (Standard Webhooks): give it to the receiver.
    secret: String,
}

/// What the webhooks of an endpoint are signed with.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EndpointSecret {
    /// `whsec_` and base64, as the libraries of Standard Webhooks take it.
    secret: String,
}

impl From<endpoints::Endpoint> for Endpoint {
    fn from(stored: endpoints::Endpoint) -> Self {
        let settings = stored.settings;
        let mut headers = settings.headers;
        for name in &settings.sensitive_headers {
            headers.entry(name.clone()).and_modify(|value| MASK.clone_into(value));
        }
        Self {
            id: stored.id.0,
            application_id: stored.application_id.0,
            url: settings.url,
            description: settings.description,
            metadata: JsonObject::rendered(settings.metadata),
            event_types: settings.event_types,
            filter: settings.filter.map(|filter| JsonObject::rendered(filter.json)),
            headers,
            sensitive_headers: settings.sensitive_headers,
            rate_limit: settings.rate_limit,
            concurrency_limit: settings.concurrency_limit,
            max_attempts: settings.max_attempts.into(),
            retry_schedule: settings.retry_schedule,
            permanent_statuses: settings
                .permanent_statuses
                .map(|statuses| statuses.into_iter().map(Into::into).collect()),
            timeout_seconds: settings.timeout_seconds.into(),
            ordered: settings.ordered,
            is_active: stored.is_active,
            disabled_reason: stored.disabled_reason,
            created_at: stored.created_at.into(),
            updated_at: stored.updated_at.into(),
        }
    }
}

fn unknown() -> Problem {
    Problem::not_found("endpoint_not_found", "endpoint")
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
            application,
            &new.settings,
            new.is_active,
            &new.secret,
            app.max_endpoints,
        )
        .await?;
        match created {
            endpoints::Created::Endpoint(endpoint) => {
                let location = format!("/v1/applications/{application}/endpoints/{}", endpoint.id);
                let body = CreatedEndpoint { endpoint: (*endpoint).into(), secret: new.secret.reveal() };
                Ok(Created::at(location, body))
            }
            endpoints::Created::TooMany => Err(Problem::new(
                StatusCode::CONFLICT,
                "too_many_endpoints",
                format!("The application has {} endpoints, as many as it may have.", app.max_endpoints),
            )
            .into()),
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

    /// Get the secret of an endpoint
    ///
    /// What receivers verify signatures with. Needs the scope `manage`.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/secret",
        method = "get",
        operation_id = "get_endpoint_secret"
    )]
    async fn secret(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
    ) -> Result<Found<EndpointSecret>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let secret =
            endpoints::get_secret(&app.store, application, endpoint_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(EndpointSecret { secret: secret.reveal() }))
    }
}
