//! `POST /v1/applications/{application_id}/endpoints/{endpoint_id}/test`: does it arrive?

use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::ids::EndpointId;
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::operational::{self, TestSent};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::endpoints::unknown;
use crate::web::answer::Accepted;
use crate::web::parameter::Path;
use crate::web::problem::Problem;
use crate::web::refused::{CONFLICT, NOT_FOUND, Refused};

/// A test that is on its way.
#[derive(Debug, Object, Serialize)]
pub(crate) struct SentTest {
    /// The event of type `postrider.test`, and the `webhook-id` that the receiver sees.
    event_id: Uuid,
    /// Its delivery, which tells what became of it.
    delivery_id: Uuid,
}

/// The test of endpoints.
pub(crate) struct EndpointTest;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl EndpointTest {
    /// Send a test to an endpoint
    ///
    /// An event of type `postrider.test` goes to this endpoint alone, whatever it subscribes to, and is attempted
    /// once. An endpoint that is not active is refused, for nothing is sent to it. Needs the scope `manage`.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/test",
        method = "post",
        operation_id = "test_endpoint"
    )]
    async fn send(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
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
                "The endpoint is not active, so that nothing is sent to it. Activate it first.",
            )
            .into()),
            TestSent::Unknown => Err(unknown().into()),
        }
    }
}
