//! The catalogue of event types.

use chrono::{DateTime, Utc};
use postrider_domain::ids::ApplicationId;
use serde::Serialize;
use uuid::Uuid;

use crate::audit::{self, Actor, Change};
use crate::page::{self, Page};
use crate::sql::{Parameters, Sql, read};
use crate::{Store, StoreError, applications, from_row};

/// An application's description of one of its event types. It is serialised as the audit log records it.
#[derive(Debug, Clone, Serialize)]
pub struct EventTypeEntry {
    /// The application that it belongs to.
    #[serde(skip)]
    pub application_id: ApplicationId,
    /// The event type.
    pub name: String,
    /// A description for people.
    pub description: String,
    /// An example of `data`, as JSON text.
    #[serde(serialize_with = "audit::raw_or_null")]
    pub example: Option<String>,
    /// The schema that `data` must satisfy, as JSON text.
    #[serde(serialize_with = "audit::raw_or_null")]
    pub json_schema: Option<String>,
    /// True if it counts as absent from the catalogue: its schema is not checked, and strict applications refuse the
    /// type.
    pub is_archived: bool,
    /// When it was created.
    #[serde(skip)]
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub updated_at: DateTime<Utc>,
}

from_row!(EventTypeEntry {
    application_id,
    name,
    description,
    example,
    json_schema,
    is_archived,
    created_at,
    updated_at,
});

/// The settings of an event type.
#[derive(Debug, Clone)]
pub struct EventTypeSettings {
    /// A description for people.
    pub description: String,
    /// An example of `data`, as JSON text.
    pub example: Option<String>,
    /// The schema that `data` must satisfy, as JSON text.
    pub json_schema: Option<String>,
    /// True if it counts as absent from the catalogue.
    pub is_archived: bool,
}

/// The position of an event type in a list: its application, then its name.
pub type Place = (ApplicationId, String);

/// The maximum number of event types of an application, including archived ones.
pub const MAX_TYPES: i64 = 1_000;

/// The result of [`create`].
#[derive(Debug, Clone)]
pub enum Created {
    /// The event type was added.
    EventType(Box<EventTypeEntry>),
    /// The application already has [`MAX_TYPES`] event types.
    TooMany,
    /// The application was deleted.
    UnknownApplication,
}

macro_rules! columns {
    () => {
        "application_id, name, description, example::text as example, json_schema::text as json_schema, is_archived, created_at, updated_at"
    };
}

const COUNT: Sql = Sql::named(
    "-- event_types.count
select count(*) as count from event_types where application_id = $1",
);

const CREATE: Sql = Sql::named(concat!(
    "-- event_types.create
insert into event_types (application_id, name, description, example, json_schema, schema_hash, is_archived)
select $1, $2, $3, $4::text::jsonb, s.json, sha256(convert_to(s.json::text, 'UTF8')), $6
from (select $5::text::jsonb) s (json)
returning ",
    columns!()
));

/// Adds an event type, unless its application already has the maximum number.
///
/// # Errors
/// [`StoreError`] if a statement fails, with [`StoreError::is_unique_violation`] if the type is already in the
/// catalogue.
pub async fn create(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    name: &str,
    settings: &EventTypeSettings,
) -> Result<Created, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    if applications::lock_to_add(&transaction, application).await?.is_none() {
        return Ok(Created::UnknownApplication);
    }
    let existing: i64 = COUNT.fetch_one(&transaction, &[&application]).await?.get("count");
    if existing >= MAX_TYPES {
        return Ok(Created::TooMany);
    }
    let EventTypeSettings { description, example, json_schema, is_archived } = settings;
    let row = CREATE
        .fetch_one(&transaction, &[&application, &name, description, example, json_schema, is_archived])
        .await?;
    let created = read::<EventTypeEntry>(&row);
    let change = Change::of("event_type.create", name, None, Some(&created));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Created::EventType(Box::new(created)))
}

const GET: Sql = Sql::named(concat!(
    "-- event_types.get
select ",
    columns!(),
    "
from event_types
where application_id = $1 and name = $2"
));

/// Returns one event type.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(
    store: &Store,
    application: ApplicationId,
    name: &str,
) -> Result<Option<EventTypeEntry>, StoreError> {
    let client = store.durable().await?;
    Ok(GET.fetch_optional(&client, &[&application, &name]).await?.as_ref().map(read))
}

/// `$scope` selects where the index is entered.
macro_rules! list {
    ($name:literal, $scope:literal) => {
        concat!(
            "-- event_types.",
            $name,
            "
select ",
            columns!(),
            "
from event_types
where ",
            $scope,
            " and (application_id, name) > ($2::uuid, $3) and ($4 or not is_archived)
order by application_id, name
limit $5"
        )
    };
}

const LIST: Sql = Sql::named(list!("list", "application_id = $1"));
const LIST_ALL: Sql = Sql::named(list!("list_all", "$1::uuid is null"));

/// Returns up to `limit` event types after the position `after`, sorted by application and name.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    application: Option<ApplicationId>,
    after: Option<&Place>,
    with_archived: bool,
    limit: u32,
) -> Result<Page<EventTypeEntry, Place>, StoreError> {
    let client = store.durable().await?;
    let sql = if application.is_some() { LIST } else { LIST_ALL };
    let (after_application, after_name) =
        after.map_or((Uuid::nil(), ""), |(application, name)| (application.0, name));
    let parameters: &Parameters<'_> =
        &[&application, &after_application, &after_name, &with_archived, &(i64::from(limit) + 1)];
    let rows = page::read(&client, sql, parameters, limit).await?;
    Ok(Page::of(&rows, |entry: &EventTypeEntry| (entry.application_id, entry.name.clone())))
}

const UPDATE: Sql = Sql::named(concat!(
    "-- event_types.update
update event_types
set description = $3, example = $4::text::jsonb, json_schema = s.json,
    schema_hash = sha256(convert_to(s.json::text, 'UTF8')), is_archived = $6, updated_at = now()
from (select $5::text::jsonb) s (json)
where application_id = $1 and name = $2 and updated_at = $7
returning ",
    columns!()
));

/// Updates an event type if it has not changed since `seen` was read. Returns `None` if it has.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn update(
    store: &Store,
    actor: &Actor,
    seen: &EventTypeEntry,
    settings: &EventTypeSettings,
) -> Result<Option<EventTypeEntry>, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let EventTypeSettings { description, example, json_schema, is_archived } = settings;
    let row = UPDATE
        .fetch_optional(
            &transaction,
            &[
                &seen.application_id,
                &seen.name,
                description,
                example,
                json_schema,
                is_archived,
                &seen.updated_at,
            ],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let changed = read::<EventTypeEntry>(&row);
    let change = Change::of("event_type.update", &seen.name, Some(seen), Some(&changed));
    audit::note(&transaction, seen.application_id, actor, change).await?;
    transaction.commit().await?;
    Ok(Some(changed))
}

const DELETE: Sql = Sql::named(concat!(
    "-- event_types.delete
delete from event_types where application_id = $1 and name = $2
returning ",
    columns!()
));

/// Removes an event type from the catalogue. Returns false if it was not there.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn delete(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    name: &str,
) -> Result<bool, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(row) = DELETE.fetch_optional(&transaction, &[&application, &name]).await? else {
        return Ok(false);
    };
    let change = Change::of("event_type.delete", name, Some(&read::<EventTypeEntry>(&row)), None);
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(true)
}

/// A JSON Schema, and the hash that identifies it.
#[derive(Debug, Clone)]
pub struct StoredSchema {
    /// The SHA-256 of the text.
    pub hash: [u8; 32],
    /// The schema, as JSON text.
    pub json: String,
}

const GET_SCHEMA: Sql = Sql::named(
    "-- event_types.get_schema
select schema_hash, json_schema::text as json_schema
from event_types
where application_id = $1 and name = $2 and not is_archived and json_schema is not null",
);

/// Returns the schema that events of a type must satisfy now.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get_schema(
    store: &Store,
    application: ApplicationId,
    name: &str,
) -> Result<Option<StoredSchema>, StoreError> {
    let client = store.durable().await?;
    let Some(row) = GET_SCHEMA.fetch_optional(&client, &[&application, &name]).await? else {
        return Ok(None);
    };
    let hash = row.get::<_, &[u8]>("schema_hash").try_into().map_err(|_| {
        StoreError::unreadable(format!("the hash of the schema of {name}"), "it is not a SHA-256")
    })?;
    Ok(Some(StoredSchema { hash, json: row.get("json_schema") }))
}
