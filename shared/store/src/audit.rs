//! The audit log: who changed which resource and how, and who has read a secret. Each entry is written in the
//! transaction of its change.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postrider_domain::ids::{ApiKeyId, ApplicationId};
use serde::Serialize;
use uuid::Uuid;

use crate::page::{self, IdRange, MAX_SCANNED, Page};
use crate::sql::{Parameters, Sql};
use crate::{Store, StoreError, from_row};

/// Who makes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A holder of an admin token.
    Admin,
    /// A holder of an API key.
    Key {
        /// The id of the key.
        id: ApiKeyId,
        /// The first characters of the key.
        prefix: String,
    },
    /// The installation itself.
    Postrider,
}

/// A change. `before` and `after` are the resource as JSON objects without its secrets. Fields that are the same in
/// both are not recorded.
pub struct Change {
    /// The action: `endpoint.update` changes an `endpoint`.
    pub(super) action: &'static str,
    /// The id or the name of the resource.
    pub(super) resource_id: String,
    /// The resource before the change, or `None` if it did not exist.
    pub(super) before: Option<String>,
    /// The resource after the change, or `None` if it no longer exists.
    pub(super) after: Option<String>,
}

impl Change {
    /// Creates a record of an action that does not change the resource.
    pub fn none(action: &'static str, resource_id: impl ToString) -> Self {
        Self { action, resource_id: resource_id.to_string(), before: None, after: None }
    }

    /// Creates a record of a change. `T` must serialise to what may be shown of the resource.
    pub fn of<T: Serialize>(
        action: &'static str,
        resource_id: impl ToString,
        before: Option<&T>,
        after: Option<&T>,
    ) -> Self {
        let json = |resource: &T| serde_json::to_string(resource).expect("a resource is plain data");
        Self {
            action,
            resource_id: resource_id.to_string(),
            before: before.map(json),
            after: after.map(json),
        }
    }
}

/// Serialises JSON text as JSON, not as a string.
pub fn raw<S: serde::Serializer>(json: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let raw: &serde_json::value::RawValue =
        serde_json::from_str(json).expect("PostgreSQL renders valid JSON");
    raw.serialize(serializer)
}

/// Like [`raw`], for an optional value.
pub fn raw_or_null<S: serde::Serializer>(json: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match json {
        Some(json) => raw(json, serializer),
        None => serializer.serialize_none(),
    }
}

const NOTE: Sql = Sql::named(
    "-- audit_log.note
insert into audit_log (
    application_id, actor, api_key_id, api_key_prefix, action, resource_type, resource_id, before, after
)
select $1, $2, $3, $4, $5, split_part($5, '.', 1), $6,
       case when c.before is not null then coalesce((
           select jsonb_object_agg(b.key, audited(b.value)) from jsonb_each(c.before) b
           where c.after is null or b.value is distinct from c.after -> b.key
       ), '{}') end,
       case when c.after is not null then coalesce((
           select jsonb_object_agg(a.key, audited(a.value)) from jsonb_each(c.after) a
           where c.before is null or a.value is distinct from c.before -> a.key
       ), '{}') end
from (select $7::text::jsonb as before, $8::text::jsonb as after) c
where c.before is null and c.after is null or c.before is distinct from c.after",
);

/// Records a change, unless `before` and `after` are equal. Without both it records an action.
pub async fn note(
    transaction: &Transaction<'_>,
    application: ApplicationId,
    actor: &Actor,
    change: Change,
) -> Result<(), StoreError> {
    let (name, key, prefix) = match actor {
        Actor::Admin => ("admin", None, None),
        Actor::Key { id, prefix } => ("api_key", Some(*id), Some(prefix)),
        Actor::Postrider => ("postrider", None, None),
    };
    let Change { action, resource_id, before, after } = change;
    NOTE.execute(transaction, &[&application, &name, &key, &prefix, &action, &resource_id, &before, &after])
        .await?;
    Ok(())
}

/// One entry of the audit log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The id of the entry.
    pub id: Uuid,
    /// The application that the resource belongs to.
    pub application_id: ApplicationId,
    /// `admin`, `api_key` or `postrider`.
    pub actor: String,
    /// The id of the API key that was used, if any.
    pub api_key_id: Option<ApiKeyId>,
    /// The first characters of that key.
    pub api_key_prefix: Option<String>,
    /// The action, such as `endpoint.update`.
    pub action: String,
    /// The kind of resource.
    pub resource_type: String,
    /// The id or the name of the resource.
    pub resource_id: String,
    /// The changed fields before the change, as a JSON object.
    pub before: Option<String>,
    /// The changed fields after the change, as a JSON object.
    pub after: Option<String>,
    /// When the change was made.
    pub created_at: DateTime<Utc>,
}

from_row!(Entry {
    id,
    application_id,
    actor,
    api_key_id,
    api_key_prefix,
    action,
    resource_type,
    resource_id,
    before,
    after,
    created_at,
});

/// Selects the entries of a list. `None` means all.
#[derive(Debug, Clone, Default)]
pub struct EntryFilter {
    /// Only entries of this application.
    pub application_id: Option<ApplicationId>,
    /// Only entries of this resource.
    pub resource_id: Option<String>,
    /// Only entries created at or after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Only entries created before this time.
    pub created_before: Option<DateTime<Utc>>,
}

/// Scans a bounded number of rows, newest first, and keeps those that the filter matches. `$scope` and `$order` select
/// the index. Rows are compared as a whole, because the planner might otherwise look for the entries of a small
/// application among those of all.
macro_rules! list {
    ($name:literal, $scope:literal, $order:literal) => {
        concat!(
            "-- audit_log.",
            $name,
            "
with scanned as materialized (
    select id, application_id, actor, api_key_id, api_key_prefix, action, resource_type, resource_id,
           before, after, created_at
    from audit_log
    where ",
            $scope,
            "
    order by ",
            $order,
            "
    limit $8
),
matched as materialized (
    select *
    from scanned
    where ($4::text is null or resource_id = $4)
      and ($5::timestamptz is null or created_at >= $5)
      and ($6::timestamptz is null or created_at < $6)
    order by id desc
    limit $7
)
select s.last_id, s.is_bounded,
       m.id, m.application_id, m.actor, m.api_key_id, m.api_key_prefix, m.action, m.resource_type,
       m.resource_id, m.before::text as before, m.after::text as after, m.created_at
from (
    select (select id from scanned order by id limit 1) as last_id,
           (select count(*) = $8 from scanned) as is_bounded
) s
left join matched m on true
order by m.id desc"
        )
    };
}

const LIST: Sql = Sql::named(list!(
    "list",
    "(application_id, id) > ($1, $2) and (application_id, id) < ($1, $3)",
    "application_id desc, id desc"
));
const LIST_ALL: Sql = Sql::named(list!("list_all", "$1::uuid is null and id > $2 and id < $3", "id desc"));

/// Returns a page of entries, newest first. The page ends early after [`MAX_SCANNED`] scanned rows.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    filter: &EntryFilter,
    cursor: Option<Uuid>,
    limit: u32,
) -> Result<Page<Entry>, StoreError> {
    let range = IdRange::new(cursor, filter.created_after, filter.created_before);
    let client = store.durable().await?;
    let sql = if filter.application_id.is_some() { LIST } else { LIST_ALL };
    let parameters: &Parameters<'_> = &[
        &filter.application_id,
        &range.above,
        &range.below,
        &filter.resource_id,
        &filter.created_after,
        &filter.created_before,
        &(i64::from(limit) + 1),
        &MAX_SCANNED,
    ];
    let rows = page::read(&client, sql, parameters, limit).await?;
    Ok(Page::of_scan(&rows, |entry: &Entry| entry.id))
}
