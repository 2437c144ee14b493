//! `/v1/audit-log`: who changed what.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::audit::{self, Entry, EntryFilter};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::web::answer::Found;
use crate::web::page::{Cursor, Page, limit};
use crate::web::parameter::InQuery;
use crate::web::parameter_values::{Limit, ResourceId};
use crate::web::refused::{INVALID, NOT_FOUND, Refused};
use crate::web::value::{JsonObject, Timestamp};

/// One change: noted together with it, and kept when what it tells of is gone.
#[derive(Debug, Object, Serialize)]
pub(crate) struct AuditEntry {
    /// Its id.
    id: Uuid,
    /// The application whose resource it is.
    application_id: Uuid,
    /// `admin`, `api_key`, or `postrider` itself.
    actor: String,
    /// The API key that was used; null where none was.
    api_key_id: Option<Uuid>,
    /// The first characters of that key, which may be revoked since; null where none was used.
    api_key_prefix: Option<String>,
    /// What was done, such as `endpoint.update`.
    action: String,
    /// What kind of resource it is: `application`, `api_key`, `endpoint` and others.
    resource_type: String,
    /// The id of the resource, or its name where that is what it goes by.
    resource_id: String,
    /// The fields that were changed, as they were, without secrets; null: it was not there.
    before: Option<JsonObject>,
    /// The fields that were changed, as they are, without secrets; null: it is no more.
    after: Option<JsonObject>,
    /// When.
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
    /// List the audit log
    ///
    /// Who changed which resource, when, from what to what; newest first. Each call looks at a bounded number of
    /// entries: with filters that match few of them a page may be short or empty while `next_cursor` is not null.
    /// Needs the scope `manage`.
    #[oai(path = "/audit-log", method = "get", operation_id = "list_audit_log")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of a resource, or its name where that is what it goes by.
        resource_id: InQuery<ResourceId>,
        /// Noted at this time or later.
        created_after: InQuery<DateTime<Utc>>,
        /// Noted before this time.
        created_before: InQuery<DateTime<Utc>>,
        /// The id or `uid` of an application: with an admin token, which else lists those of all, also of deleted
        /// ones.
        application_id: InQuery<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<AuditEntry>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Manage)?;
        let filter = EntryFilter {
            application_id: caller.listed_application(&app, application_id.0.as_ref()).await?,
            resource_id: resource_id.0.map(|id| id.0),
            created_after: created_after.0,
            created_before: created_before.0,
        };
        let cursor = cursor.0.map(|cursor| cursor.0);
        let page = audit::list(&app.store, &filter, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }
}
