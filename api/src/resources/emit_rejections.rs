//! `/v1/emit-rejections`: events that producers emitted in transactions of their own and that could not be accepted.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::EmitRejectionId;
use postrider_store::applications::ApplicationRef;
use postrider_store::emit_rejections;
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::web::json_types::Timestamp;
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::{FieldError, Problem};
use crate::web::refused::{INVALID, NOT_FOUND, Refused};
use crate::web::success::Found;

/// An event that was emitted in a transaction with `postrider.emit` and could not be accepted.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EmitRejection {
    /// The unique id of the rejection.
    id: Uuid,
    /// The id of the application. Null if the application that the producer named does not exist.
    application_id: Option<Uuid>,
    /// The application as the producer named it: an id or a `uid`.
    application: String,
    /// The type of the event.
    event_type: String,
    /// The idempotency key of the event.
    idempotency_key: String,
    /// Why the event was rejected: the problem `code` that publishing it through the API would have returned.
    code: String,
    /// A description of the problem for people.
    detail: String,
    /// The invalid fields. Empty if the problem is not about fields.
    errors: Vec<FieldError>,
    /// When the event was emitted.
    emitted_at: Timestamp,
    /// When the event was rejected.
    created_at: Timestamp,
}

/// A rejected event, including its data.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EmitRejectionWithData {
    #[oai(flatten)]
    #[serde(flatten)]
    rejection: EmitRejection,
    /// The data that was emitted, as JSON text.
    data: String,
}

impl From<emit_rejections::EmitRejection> for EmitRejection {
    fn from(stored: emit_rejections::EmitRejection) -> Self {
        Self {
            id: stored.id.0,
            application_id: stored.application_id.map(|id| id.0),
            application: stored.application,
            event_type: stored.event_type,
            idempotency_key: stored.idempotency_key,
            code: stored.code,
            detail: stored.detail,
            errors: serde_json::from_str(&stored.errors).unwrap_or_default(),
            emitted_at: stored.emitted_at.into(),
            created_at: stored.created_at.into(),
        }
    }
}

/// The operations on rejections.
pub(crate) struct EmitRejections;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Events")]
impl EmitRejections {
    /// List rejected events
    ///
    /// Returns events that were emitted with the SQL function `postrider.emit` and could not be accepted, newest
    /// first. Requires the `read` scope.
    #[oai(path = "/emit-rejections", method = "get", operation_id = "list_emit_rejections")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Returns only rejections of the application with this id or `uid`. If absent, an admin token lists the
        /// rejections of all applications, and an API key those of its own application.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<EmitRejection>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let page = emit_rejections::list(&app.store, application, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }

    /// Get a rejected event
    ///
    /// Returns a rejected event, including its data. Requires the `read` scope.
    #[oai(path = "/emit-rejections/:emit_rejection_id", method = "get", operation_id = "get_emit_rejection")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the rejection.
        emit_rejection_id: Path<EmitRejectionId>,
        /// The id or `uid` of the application that the rejection must belong to. If it belongs to another one, the
        /// response is 404.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<EmitRejectionWithData>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let found = emit_rejections::get(&app.store, application, emit_rejection_id.0).await?;
        let mut found = found.ok_or_else(|| Problem::not_found("emit_rejection_not_found", "rejection"))?;
        let data = found.data.take().unwrap_or_default();
        Ok(Found::new(EmitRejectionWithData { rejection: found.into(), data }))
    }
}
