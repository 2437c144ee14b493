//! The audit log: who changed which resource, from what to what, and who has read a secret. Written with the change, or
//! not at all.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postrider_domain::ids::{ApiKeyId, ApplicationId};
use serde::Serialize;
use uuid::Uuid;

use crate::page::{self, IdRange, MAX_SCANNED, Page};
use crate::sql::{Parameters, Sql};
use crate::{Store, StoreError, from_row};

/// Who changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds an admin token.
    Admin,
    /// Whoever holds an API key.
    Key {
        /// Its id.
        id: ApiKeyId,
        /// Its first characters.
        prefix: String,
    },
    /// The installation itself.
    Postrider,
}

/// What was changed. `before` and `after` are the resource as JSON objects without its secrets; what is the
/// same in both is not kept.
pub struct Change {
    /// What was done: `endpoint.update` changes an `endpoint`.
    pub(super) action: &'static str,
    /// The resource: its id, or its name.
    pub(super) resource_id: String,
    /// As it was; `None`: it was not there.
    pub(super) before: Option<String>,
    /// As it is; `None`: it is no more.
    pub(super) after: Option<String>,
}

impl Change {
    /// Something that was done with a resource, and did not change it.
    pub fn none(action: &'static str, resource_id: impl ToString) -> Self {
        Self { action, resource_id: resource_id.to_string(), before: None, after: None }
    }

    /// Of a resource that serialises to what may be shown of it.
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

/// Writes JSON as what it is, and not as a text.
pub fn raw<S: serde::Serializer>(json: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let raw: &serde_json::value::RawValue =
        serde_json::from_str(json).expect("PostgreSQL renders valid JSON");
    raw.serialize(serializer)
}

/// The same where there may be none.
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

/// Notes a change, unless nothing was changed. Without `before` and `after` it is something that was done.
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

/// One change, as it was noted.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: Uuid,
    /// Whose resource it is.
    pub application_id: ApplicationId,
    /// `admin`, `api_key` or `postrider`.
    pub actor: String,
    /// The key that was used.
    pub api_key_id: Option<ApiKeyId>,
    /// Its first characters.
    pub api_key_prefix: Option<String>,
    /// What was done.
    pub action: String,
    /// What kind of resource it is.
    pub resource_type: String,
    /// The resource: its id, or its name.
    pub resource_id: String,
    /// The fields that were changed, as they were: a JSON object.
    pub before: Option<String>,
    /// The fields that were changed, as they are: a JSON object.
    pub after: Option<String>,
    /// When.
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

/// Which entries a list holds. `None` means all.
#[derive(Debug, Clone, Default)]
pub struct EntryFilter {
    /// Whose; `None`: everyone's.
    pub application_id: Option<ApplicationId>,
    /// Of this resource.
    pub resource_id: Option<String>,
    /// At or after.
    pub created_after: Option<DateTime<Utc>>,
    /// Before.
    pub created_before: Option<DateTime<Utc>>,
}

/// Looks at a bounded number of rows, newest first, and keeps what the filter matches. `$scope` and
/// `$order` pick the index that is walked: rows are compared as a whole, or the planner might look for a small
/// application's entries among those of all.
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

/// A page of entries, newest first. It ends early after [`MAX_SCANNED`] rows looked at.
///
/// # Errors
/// When PostgreSQL does not answer.
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
