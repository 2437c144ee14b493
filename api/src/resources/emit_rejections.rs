//! `/v1/emit-rejections`: what was emitted in a producer's own transaction and could not be accepted.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::ids::EmitRejectionId;
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::emit_rejections;
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::web::answer::Found;
use crate::web::page::{Cursor, Page, limit};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::{FieldError, Problem};
use crate::web::refused::{INVALID, NOT_FOUND, Refused};
use crate::web::value::Timestamp;

/// An event that was emitted and could not be accepted.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EmitRejection {
    /// Its id.
    id: Uuid,
    /// The application; null: what the producer named is none.
    application_id: Option<Uuid>,
    /// What the producer named: an id or a `uid`.
    application: String,
    /// Its type.
    event_type: String,
    /// The key under which it was emitted.
    idempotency_key: String,
    /// Why it was rejected: the `code` that posting it would have been answered with.
    code: String,
    /// A sentence for people.
    detail: String,
    /// The fields that are at fault.
    errors: Vec<FieldError>,
    /// When it was emitted.
    emitted_at: Timestamp,
    /// When it was rejected.
    created_at: Timestamp,
}

/// The same, with what was emitted.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EmitRejectionWithData {
    #[oai(flatten)]
    #[serde(flatten)]
    rejection: EmitRejection,
    /// What was emitted, as JSON text.
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
    /// List rejections of emitted events
    ///
    /// What was emitted with the SQL function `postrider.emit` and could not be accepted, newest first. Needs the
    /// scope `read`.
    #[oai(path = "/emit-rejections", method = "get", operation_id = "list_emit_rejections")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of an application: with an admin token, which else lists those of all.
        application_id: InQuery<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<EmitRejection>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let cursor = cursor.0.map(|cursor| EmitRejectionId(cursor.0));
        let page = emit_rejections::list(&app.store, application, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }

    /// Get a rejection of an emitted event
    ///
    /// With its data. Needs the scope `read`.
    #[oai(path = "/emit-rejections/:emit_rejection_id", method = "get", operation_id = "get_emit_rejection")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the rejection.
        emit_rejection_id: Path<EmitRejectionId>,
        /// The id or `uid` of an application: with an admin token, to look at no other's.
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
