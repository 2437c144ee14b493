//! `…/filter/test`: tests whether data matches a filter, or the filter of an endpoint.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::filter::Filter;
use postrider_domain::ids::{ApplicationId, EndpointId, EventId};
use postrider_secrets::endpoints;
use postrider_store::applications::ApplicationRef;
use postrider_store::filters;
use postrider_store::filters::Tried;
use serde::{Deserialize, Serialize};

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::deliveries::expunged;
use crate::resources::endpoints::check::check_filter;
use crate::web::body::JsonBody;
use crate::web::check::Checks;
use crate::web::json_types::{Id, JsonObject};
use crate::web::parameter::Path;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, NOT_FOUND, Refused};
use crate::web::success::Found;

/// A filter, and the data to test it with.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestFilterRequest {
    /// The filter to test, in the same format as the `filter` of an endpoint.
    filter: JsonObject,
    /// The `data` of an event to test with. Give either `data` or `event_id`.
    #[serde(default)]
    data: Option<JsonObject>,
    /// The id of a stored event to test with. Give either `event_id` or `data`.
    #[serde(default)]
    event_id: Option<Id>,
}

/// The data to test the filter of an endpoint with.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestEndpointFilterRequest {
    /// The `data` of an event to test with. Give either `data` or `event_id`.
    #[serde(default)]
    data: Option<JsonObject>,
    /// The id of a stored event to test with. Give either `event_id` or `data`.
    #[serde(default)]
    event_id: Option<Id>,
}

/// The result of a filter test.
#[derive(Debug, Object, Serialize)]
pub(crate) struct FilterTest {
    /// True if an event with this data passes the filter. The type of the event, and whether the endpoint is active,
    /// are not considered.
    matched: bool,
}

/// The data to test a filter with.
enum Sample {
    Data(JsonObject),
    Event(EventId),
}

/// The operations that test filters.
pub(crate) struct FilterTests;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl FilterTests {
    /// Test a filter
    ///
    /// Checks whether a payload or a stored event matches a filter. Nothing is sent. Requires the `read` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/filter/test",
        method = "post",
        operation_id = "test_filter"
    )]
    async fn test_filter(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        body: JsonBody<TestFilterRequest>,
    ) -> Result<Found<FilterTest>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let mut checks = Checks::default();
        let filter = check_filter(&mut checks, &body.0.filter);
        checks.done()?;
        let sample = sample(body.0.data, body.0.event_id)?;
        Ok(Found::new(test(&app, application, filter.as_ref(), sample).await?))
    }

    /// Test the filter of an endpoint
    ///
    /// Checks whether a payload or a stored event matches the filter of an endpoint. Everything matches an endpoint
    /// without a filter. Nothing is sent. Requires the `read` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/filter/test",
        method = "post",
        operation_id = "test_endpoint_filter"
    )]
    async fn test_endpoint_filter(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
        body: JsonBody<TestEndpointFilterRequest>,
    ) -> Result<Found<FilterTest>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let endpoint = endpoints::get(&app.store, application, endpoint_id.0).await?;
        let endpoint = endpoint.ok_or_else(|| Problem::not_found("endpoint_not_found", "endpoint"))?;
        let sample = sample(body.0.data, body.0.event_id)?;
        Ok(Found::new(test(&app, application, endpoint.settings.filter.as_ref(), sample).await?))
    }
}

fn sample(data: Option<JsonObject>, event_id: Option<Id>) -> Result<Sample, Problem> {
    match (data, event_id) {
        (Some(data), None) if data.as_str().starts_with('{') => Ok(Sample::Data(data)),
        (None, Some(event)) => Ok(Sample::Event(EventId(event.0))),
        (Some(_), None) => Err(Problem::invalid_field("data", "must be a JSON object")),
        (None, None) => Err(Problem::invalid_field("data", "is required, unless `event_id` is given")),
        (Some(_), Some(_)) => {
            Err(Problem::invalid_field("event_id", "must not be given together with `data`"))
        }
    }
}

/// By the same predicate that decides where an event is accepted; without a filter there is none to fail.
async fn test(
    app: &App,
    application: ApplicationId,
    filter: Option<&Filter>,
    sample: Sample,
) -> Result<FilterTest, Problem> {
    let any = Filter::any();
    let filter = filter.unwrap_or(&any);
    let matched = match sample {
        Sample::Data(data) => filters::matches_sample(&app.store, filter, data.as_str()).await?,
        Sample::Event(event) => match filters::matches_event(&app.store, filter, application, event).await? {
            Tried::Matched(matched) => matched,
            Tried::Expunged => return Err(expunged()),
            Tried::UnknownEvent => return Err(Problem::not_found("event_not_found", "event")),
        },
    };
    Ok(FilterTest { matched })
}
