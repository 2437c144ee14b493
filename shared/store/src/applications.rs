//! Applications: the tenants.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postrider_domain::ids::ApplicationId;
use serde::Serialize;
use uuid::Uuid;

use crate::api_keys::{self, ApiKey, NewApiKey};
use crate::audit::{self, Actor, Change};
use crate::page::{self, Page};
use crate::sql::{Parameters, Sql, read};
use crate::{Store, StoreError, cleanups, from_row, ingest};

/// An application. It is serialised as the audit log records it.
#[derive(Debug, Clone, Serialize)]
pub struct Application {
    /// The id of the application.
    #[serde(skip)]
    pub id: ApplicationId,
    /// The producer's own identifier for it.
    pub uid: Option<String>,
    /// A name for people.
    pub name: String,
    /// A JSON object that belongs to the producer, as text.
    #[serde(serialize_with = "audit::raw")]
    pub metadata: String,
    /// Whether it may publish events.
    pub is_active: bool,
    /// The most events per second that it may publish, or `None` for no limit.
    pub ingest_rate_limit: Option<i32>,
    /// Whether events of types that are not in its catalogue are refused.
    pub strict_event_types: bool,
    /// When it was created.
    #[serde(skip)]
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub updated_at: DateTime<Utc>,
}

from_row!(Application {
    id,
    uid,
    name,
    metadata,
    is_active,
    ingest_rate_limit,
    strict_event_types,
    created_at,
    updated_at,
});

/// An application to create.
#[derive(Debug, Clone)]
pub struct NewApplication {
    /// The producer's own identifier for it, unique in the installation.
    pub uid: Option<String>,
    /// A name for people.
    pub name: String,
    /// A JSON object that belongs to the producer, as text.
    pub metadata: String,
    /// The most events per second that it may publish, or `None` for no limit.
    pub ingest_rate_limit: Option<i32>,
    /// Whether events of types that are not in its catalogue are refused.
    pub strict_event_types: bool,
}

/// The new state of an application.
#[derive(Debug, Clone)]
pub struct Update {
    /// The producer's own identifier for it, unique in the installation.
    pub uid: Option<String>,
    /// A name for people.
    pub name: String,
    /// A JSON object that belongs to the producer, as text.
    pub metadata: String,
    /// Whether it may publish events.
    pub is_active: bool,
    /// The most events per second that it may publish, or `None` for no limit.
    pub ingest_rate_limit: Option<i32>,
    /// Whether events of types that are not in its catalogue are refused.
    pub strict_event_types: bool,
}

/// Identifies an application in a path or a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplicationRef {
    /// By its id.
    Id(ApplicationId),
    /// By its uid.
    Uid(String),
}

macro_rules! columns {
    () => {
        "id, uid, name, metadata::text as metadata, is_active, ingest_rate_limit, strict_event_types, created_at, updated_at"
    };
}

const CREATE: Sql = Sql::named(concat!(
    "-- applications.create
insert into applications (uid, name, metadata, ingest_rate_limit, strict_event_types)
values ($1, $2, $3::text::jsonb, $4, $5)
returning ",
    columns!()
));

/// Creates an application and its first API key in one transaction.
///
/// # Errors
/// [`StoreError`] if a statement fails, with [`StoreError::is_unique_violation`] if the uid is taken.
pub async fn create(
    store: &Store,
    actor: &Actor,
    application: &NewApplication,
    key: &NewApiKey,
) -> Result<(Application, ApiKey), StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let row = CREATE
        .fetch_one(
            &transaction,
            &[
                &application.uid,
                &application.name,
                &application.metadata,
                &application.ingest_rate_limit,
                &application.strict_event_types,
            ],
        )
        .await?;
    let created = read::<Application>(&row);
    if created.ingest_rate_limit.is_some() {
        ingest::open(&transaction, created.id).await?;
    }
    let change = Change::of("application.create", created.id.0, None, Some(&created));
    audit::note(&transaction, created.id, actor, change).await?;
    let key = api_keys::insert(&transaction, actor, created.id, key).await?;
    transaction.commit().await?;
    Ok((created, key))
}

const FIND: Sql = Sql::named(concat!(
    "-- applications.find
select ",
    columns!(),
    "
from applications
where (id = $1 or uid = $2) and deleted_at is null"
));

/// Returns the application with this id or uid.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn find(store: &Store, reference: &ApplicationRef) -> Result<Option<Application>, StoreError> {
    let (id, uid) = match reference {
        ApplicationRef::Id(id) => (Some(*id), None),
        ApplicationRef::Uid(uid) => (None, Some(uid)),
    };
    let client = store.durable().await?;
    let row = FIND.fetch_optional(&client, &[&id, &uid]).await?;
    Ok(row.as_ref().map(read))
}

const LIST: Sql = Sql::named(concat!(
    "-- applications.list
select ",
    columns!(),
    "
from applications
where id < $1 and deleted_at is null
order by id desc
limit $2"
));

/// Returns up to `limit` applications, newest first.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    cursor: Option<ApplicationId>,
    limit: u32,
) -> Result<Page<Application>, StoreError> {
    let client = store.durable().await?;
    let below = cursor.map_or(Uuid::max(), |id| id.0);
    let rows = page::read(&client, LIST, &[&below, &(i64::from(limit) + 1)], limit).await?;
    Ok(Page::of(&rows, |application: &Application| application.id.0))
}

const LOCK_TO_ADD: Sql = Sql::named(
    "-- applications.lock_to_add
select uuid_v7() as new_id from applications where id = $1 and deleted_at is null for no key update",
);

/// Locks the application, so that transactions that add something to it of which it may have only a limited number take
/// turns. Each then counts correctly, in a separate statement after this one. Returns an id for the new row, or `None`
/// if the application does not exist.
pub async fn lock_to_add(
    transaction: &Transaction<'_>,
    application: ApplicationId,
) -> Result<Option<Uuid>, StoreError> {
    Ok(LOCK_TO_ADD.fetch_optional(transaction, &[&application]).await?.map(|row| row.get("new_id")))
}

const LOCK: Sql = Sql::named(concat!(
    "-- applications.lock_to_change
select ",
    columns!(),
    "
from applications
where id = $1 and deleted_at is null
for no key update"
));

const UPDATE: Sql = Sql::named(concat!(
    "-- applications.update
update applications
set uid = $2, name = $3, metadata = $4::text::jsonb, is_active = $5, ingest_rate_limit = $6,
    strict_event_types = $7, updated_at = now()
where id = $1
returning ",
    columns!()
));

/// Updates an application to what `change` returns for its current state. Returns `None` if it does not exist.
///
/// # Errors
/// The error of `change`, or [`StoreError`] if a statement fails, with [`StoreError::is_unique_violation`] if the uid
/// is taken. Nothing was changed then.
pub async fn update<E: From<StoreError>>(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    change: impl FnOnce(&Application) -> Result<Update, E>,
) -> Result<Option<Application>, E> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await.map_err(StoreError::from)?;
    let Some(row) = LOCK.fetch_optional(&transaction, &[&application]).await? else {
        return Ok(None);
    };
    let before = read::<Application>(&row);
    let Update { uid, name, metadata, is_active, ingest_rate_limit, strict_event_types } = change(&before)?;
    let parameters: &Parameters<'_> =
        &[&application, &uid, &name, &metadata, &is_active, &ingest_rate_limit, &strict_event_types];
    let after = read::<Application>(&UPDATE.fetch_one(&transaction, parameters).await?);
    if after.ingest_rate_limit.is_some() {
        ingest::open(&transaction, application).await?;
    }
    let change = Change::of("application.update", application.0, Some(&before), Some(&after));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await.map_err(StoreError::from)?;
    Ok(Some(after))
}

const DELETE: Sql = Sql::named(
    "-- applications.delete
with endpoint as (
    select id from endpoints where application_id = $1 and deleted_at is null order by id for no key update
),
marked as (
    update endpoints e set deleted_at = now() from endpoint where e.id = endpoint.id
)
update applications set deleted_at = now(), updated_at = now() where id = $1",
);

/// Deletes an application. Its keys stop working and its endpoints stop matching at once. The relay removes its data
/// later. Returns false if it does not exist.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn delete(store: &Store, actor: &Actor, application: ApplicationId) -> Result<bool, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(row) = LOCK.fetch_optional(&transaction, &[&application]).await? else {
        return Ok(false);
    };
    DELETE.execute(&transaction, &[&application]).await?;
    cleanups::remove_application(&transaction, application).await?;
    let change = Change::of("application.delete", application.0, Some(&read::<Application>(&row)), None);
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(true)
}
