//! `/v1/audit-log`: who changed what, and when.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_store::applications::ApplicationRef;
use postrider_store::audit::{self, Entry, EntryFilter};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::web::json_types::{JsonObject, Timestamp};
use crate::web::page::{Cursor, Page};
use crate::web::parameter::InQuery;
use crate::web::parameter_values::{Limit, ResourceId};
use crate::web::refused::{INVALID, NOT_FOUND, Refused};
use crate::web::success::Found;

/// An entry of the audit log. It is written in the same transaction as the change, and kept after the resource is
/// deleted.
#[derive(Debug, Object, Serialize)]
pub(crate) struct AuditEntry {
    /// The unique id of the entry.
    id: Uuid,
    /// The id of the application that the resource belongs to.
    application_id: Uuid,
    /// Who made the change: `admin`, `api_key`, or `postrider` for Postrider itself.
    actor: String,
    /// The id of the API key that was used. Null if none was used.
    api_key_id: Option<Uuid>,
    /// The first characters of that key, which may have been revoked since. Null if no key was used.
    api_key_prefix: Option<String>,
    /// The action, such as `endpoint.update`.
    action: String,
    /// The type of the resource: `application`, `api_key`, `endpoint`, `event_type`, `delivery`, `event` or `replay`.
    resource_type: String,
    /// The id of the resource, or the name of the event type.
    resource_id: String,
    /// The old values of the changed fields, without secrets. Null if there are none, for example after a creation.
    before: Option<JsonObject>,
    /// The new values of the changed fields, without secrets. Null if there are none, for example after a deletion.
    after: Option<JsonObject>,
    /// When the change was made.
    created_at: Timestamp,
}

impl From<Entry> for AuditEntry {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            application_id: entry.application_id.0,
            actor: entry.actor,
            api_key_id: entry.api_key_id.map(|id| id.0),
            api_key_prefix: entry.api_key_prefix,
            action: entry.action,
            resource_type: entry.resource_type,
            resource_id: entry.resource_id,
            before: entry.before.map(JsonObject::rendered),
            after: entry.after.map(JsonObject::rendered),
            created_at: entry.created_at.into(),
        }
    }
}

/// The operations on the audit log.
pub(crate) struct AuditLog;

#[OpenApi(prefix_path = "/v1", tag = "Tag::AuditLog")]
impl AuditLog {
    /// List audit log entries
    ///
    /// Returns who changed which resource, when and how, newest first. Each call examines a limited number of
    /// entries. With filters that match few of them, a page can be short or empty although `next_cursor` is not null.
    /// Requires the `manage` scope.
    #[oai(path = "/audit-log", method = "get", operation_id = "list_audit_log")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Returns only entries about this resource: its id, or the name of an event type.
        resource_id: InQuery<ResourceId>,
        /// Returns only entries created at or after this time.
        created_after: InQuery<DateTime<Utc>>,
        /// Returns only entries created before this time.
        created_before: InQuery<DateTime<Utc>>,
        /// Returns only entries of the application with this id or `uid`. If absent, an admin token lists the entries
        /// of all applications, including deleted ones, and an API key those of its own application.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<AuditEntry>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Manage)?;
        let filter = EntryFilter {
            application_id: caller.listed_application(&app, application_id.0.as_ref()).await?,
            resource_id: resource_id.0.map(|id| id.0),
            created_after: created_after.0,
            created_before: created_before.0,
        };
        let page = audit::list(&app.store, &filter, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }
}
