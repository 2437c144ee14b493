//! `POST /v1/applications/{application_id}/endpoints/{endpoint_id}/test`: sends a test event.

use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::EndpointId;
use postrider_store::applications::ApplicationRef;
use postrider_store::operational::{self, TestSent};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::endpoints::unknown;
use crate::web::parameter::Path;
use crate::web::problem::Problem;
use crate::web::refused::{CONFLICT, NOT_FOUND, Refused};
use crate::web::success::Accepted;

/// A test event that was queued.
#[derive(Debug, Object, Serialize)]
pub(crate) struct SentTest {
    /// The id of the event of type `postrider.test`. It is also the `webhook-id` that the receiver sees.
    event_id: Uuid,
    /// The id of the delivery. Read it to see the result of the test.
    delivery_id: Uuid,
}

/// The test of endpoints.
pub(crate) struct EndpointTest;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl EndpointTest {
    /// Send a test event to an endpoint
    ///
    /// Sends an event of type `postrider.test` to this endpoint only, regardless of which events it subscribes to. It
    /// is attempted once. A disabled endpoint is refused with 409. Requires the `manage` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/test",
        method = "post",
        operation_id = "test_endpoint"
    )]
    async fn send(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
    ) -> Result<Accepted<SentTest>, Refused<{ NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        match operational::send_test(&app.store, application, endpoint_id.0).await? {
            TestSent::Sent { event_id, delivery_id } => {
                Ok(Accepted::new(SentTest { event_id: event_id.0, delivery_id: delivery_id.0 }))
            }
            TestSent::Inactive => Err(Problem::new(
                StatusCode::CONFLICT,
                "endpoint_inactive",
                "The endpoint is disabled, so nothing is sent to it. Enable it first.",
            )
            .into()),
            TestSent::Unknown => Err(unknown().into()),
        }
    }
}
