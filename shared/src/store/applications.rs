//! Applications: the tenants.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::api_keys::{self, ApiKey, NewApiKey};
use super::page::Page;
use super::{Store, StoreError};
use crate::ids::ApplicationId;

/// A tenant.
#[derive(Debug, Clone)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// The producer's own name for it.
    pub uid: Option<String>,
    /// Its name, for people.
    pub name: String,
    /// A JSON object of the producer's.
    pub metadata: String,
    /// False: it may not publish.
    pub is_active: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// An application that is to be made.
#[derive(Debug, Clone)]
pub struct NewApplication {
    /// The producer's own name for it, unique over the installation.
    pub uid: Option<String>,
    /// Its name, for people.
    pub name: String,
    /// A JSON object, as text.
    pub metadata: String,
}

/// What names an application in a path or a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplicationRef {
    /// Its id.
    Id(ApplicationId),
    /// Its uid.
    Uid(String),
}

const CREATE: &str = "-- applications.create
insert into applications (uid, name, metadata)
values ($1, $2, $3::text::jsonb)
returning id, uid, name, metadata::text, is_active, created_at, updated_at";

/// Makes an application and its first API key, both or neither.
///
/// # Errors
/// [`StoreError::is_unique_violation`] when the uid is taken.
pub async fn create(
    store: &Store,
    application: &NewApplication,
    key: &NewApiKey,
) -> Result<(Application, ApiKey), StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let statement = transaction.prepare_cached(CREATE).await?;
    let row = transaction
        .query_one(&statement, &[&application.uid, &application.name, &application.metadata])
        .await?;
    let created = parse(&row);
    let key = api_keys::insert(&transaction, created.id, key).await?;
    transaction.commit().await?;
    Ok((created, key))
}

const FIND: &str = "-- applications.find
select id, uid, name, metadata::text, is_active, created_at, updated_at
from applications
where (id = $1 or uid = $2) and deleted_at is null";

/// Finds an application by its id or uid.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn find(store: &Store, reference: &ApplicationRef) -> Result<Option<Application>, StoreError> {
    let (id, uid) = match reference {
        ApplicationRef::Id(id) => (Some(*id), None),
        ApplicationRef::Uid(uid) => (None, Some(uid)),
    };
    let client = store.durable().await?;
    let statement = client.prepare_cached(FIND).await?;
    let row = client.query_opt(&statement, &[&id, &uid]).await?;
    Ok(row.as_ref().map(parse))
}

const LIST: &str = "-- applications.list
select id, uid, name, metadata::text, is_active, created_at, updated_at
from applications
where id < $1 and deleted_at is null
order by id desc
limit $2";

/// Applications, newest first, `limit` at most.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn list(
    store: &Store,
    cursor: Option<ApplicationId>,
    limit: u32,
) -> Result<Page<Application>, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(LIST).await?;
    let below = cursor.map_or(uuid::Uuid::max(), |id| id.0);
    let rows = client.query(&statement, &[&below, &(i64::from(limit) + 1)]).await?;
    Ok(Page::of_one_more(rows.iter().map(parse).collect(), limit as usize, |application| application.id.0))
}

fn parse(row: &Row) -> Application {
    Application {
        id: row.get(0),
        uid: row.get(1),
        name: row.get(2),
        metadata: row.get(3),
        is_active: row.get(4),
        created_at: row.get(5),
        updated_at: row.get(6),
    }
}
