//! API keys: the credentials of applications. Only their hashes are stored.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postrider_domain::ids::{ApiKeyId, ApplicationId};
use serde::Serialize;

use crate::audit::{self, Actor, Change};
use crate::page::{self, Page};
use crate::sql::{Sql, read};
use crate::{Store, StoreError, applications, from_row};

/// The SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// An API key without its secret part. It is serialised as the audit log records it.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKey {
    /// The id of the key.
    #[serde(skip)]
    pub id: ApiKeyId,
    /// A name for people.
    pub name: String,
    /// The first characters of the key, to recognise it by.
    pub prefix: String,
    /// The scopes of the key.
    pub scopes: Vec<String>,
    /// When the key expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the key was last used, accurate to half a minute.
    #[serde(skip)]
    pub last_used_at: Option<DateTime<Utc>>,
    /// When the key was created.
    #[serde(skip)]
    pub created_at: DateTime<Utc>,
}

from_row!(ApiKey { id, name, prefix, scopes, expires_at, last_used_at, created_at });

/// An API key to create.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// A name for people.
    pub name: String,
    /// The first characters of the key, to recognise it by.
    pub prefix: String,
    /// The hash of the key.
    pub hash: KeyHash,
    /// The scopes of the key: some of `publish`, `read`, `manage`.
    pub scopes: Vec<String>,
    /// When the key expires.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The application that a key belongs to, and the rights of the key.
#[derive(Debug, Clone)]
pub struct KeyOwner {
    /// The id of the key.
    pub api_key_id: ApiKeyId,
    /// The first characters of the key.
    pub prefix: String,
    /// The application.
    pub application_id: ApplicationId,
    /// The scopes of the key.
    pub scopes: Vec<String>,
}

from_row!(KeyOwner { api_key_id, prefix, application_id, scopes });

const FIND_OWNER: Sql = Sql::named(
    "-- api_keys.find_owner
select k.id as api_key_id, k.prefix, k.application_id, k.scopes
from api_keys k
where k.key_hash = $1 and (k.expires_at is null or k.expires_at > now())
  -- Not a join: for that, PostgreSQL might read all applications that are not deleted.
  and (select a.deleted_at is null from applications a where a.id = k.application_id)",
);

/// Returns the owner of a key, or `None` if the key is unknown, expired or revoked.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn find_owner(store: &Store, hash: &KeyHash) -> Result<Option<KeyOwner>, StoreError> {
    let client = store.durable().await?;
    let row = FIND_OWNER.fetch_optional(&client, &[&hash.as_slice()]).await?;
    Ok(row.as_ref().map(read))
}

/// The maximum number of keys of an application, including expired ones.
pub const MAX_KEYS: i64 = 100;

/// The result of creating a key.
#[derive(Debug, Clone)]
pub enum Created {
    /// The created key.
    Key(Box<ApiKey>),
    /// The application already has [`MAX_KEYS`] keys.
    TooMany,
    /// The application does not exist.
    UnknownApplication,
}

const COUNT: Sql = Sql::named(
    "-- api_keys.count
select count(*) as count from api_keys where application_id = $1",
);

const CREATE: Sql = Sql::named(
    "-- api_keys.create
insert into api_keys (application_id, name, prefix, key_hash, scopes, expires_at)
values ($1, $2, $3, $4, $5, $6)
returning id, name, prefix, scopes, expires_at, last_used_at, created_at",
);

/// Creates a key for an application, unless it already has the maximum number.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn create(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    key: &NewApiKey,
) -> Result<Created, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    if applications::lock_to_add(&transaction, application).await?.is_none() {
        return Ok(Created::UnknownApplication);
    }
    let existing: i64 = COUNT.fetch_one(&transaction, &[&application]).await?.get("count");
    if existing >= MAX_KEYS {
        return Ok(Created::TooMany);
    }
    let created = insert(&transaction, actor, application, key).await?;
    transaction.commit().await?;
    Ok(Created::Key(Box::new(created)))
}

pub(super) async fn insert(
    transaction: &Transaction<'_>,
    actor: &Actor,
    application: ApplicationId,
    key: &NewApiKey,
) -> Result<ApiKey, StoreError> {
    let row = CREATE
        .fetch_one(
            transaction,
            &[&application, &key.name, &key.prefix, &key.hash.as_slice(), &key.scopes, &key.expires_at],
        )
        .await?;
    let created = read::<ApiKey>(&row);
    let change = Change::of("api_key.create", created.id.0, None, Some(&created));
    audit::note(transaction, application, actor, change).await?;
    Ok(created)
}

const GET: Sql = Sql::named(
    "-- api_keys.get
select id, name, prefix, scopes, expires_at, last_used_at, created_at
from api_keys
where application_id = $1 and id = $2",
);

/// Returns one key of an application.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(
    store: &Store,
    application: ApplicationId,
    key: ApiKeyId,
) -> Result<Option<ApiKey>, StoreError> {
    let client = store.durable().await?;
    Ok(GET.fetch_optional(&client, &[&application, &key]).await?.as_ref().map(read))
}

const LIST: Sql = Sql::named(
    "-- api_keys.list
select id, name, prefix, scopes, expires_at, last_used_at, created_at
from api_keys
where application_id = $1 and id < $2
order by id desc
limit $3",
);

/// Returns up to `limit` keys of an application, newest first.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    application: ApplicationId,
    cursor: Option<ApiKeyId>,
    limit: u32,
) -> Result<Page<ApiKey>, StoreError> {
    let client = store.durable().await?;
    let below = cursor.map_or(uuid::Uuid::max(), |id| id.0);
    let rows = page::read(&client, LIST, &[&application, &below, &(i64::from(limit) + 1)], limit).await?;
    Ok(Page::of(&rows, |key: &ApiKey| key.id.0))
}

const DELETE: Sql = Sql::named(
    "-- api_keys.delete
delete from api_keys
where application_id = $1 and id = $2
returning id, name, prefix, scopes, expires_at, last_used_at, created_at",
);

/// Revokes a key at once. Returns false if it does not exist.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn delete(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    key: ApiKeyId,
) -> Result<bool, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(row) = DELETE.fetch_optional(&transaction, &[&application, &key]).await? else {
        return Ok(false);
    };
    let change = Change::of("api_key.delete", key.0, Some(&read::<ApiKey>(&row)), None);
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(true)
}

const RECORD_USE: Sql = Sql::named(
    "-- api_keys.record_use
with used as materialized (
    select key_hash, used_at from unnest($1::bytea[], $2::timestamptz[]) as u (key_hash, used_at)
),
locked as materialized (
    select k.id, u.used_at
    from api_keys k
    join used u on u.key_hash = k.key_hash
    where k.last_used_at is null or k.last_used_at < u.used_at
    order by k.id
    for no key update of k
)
update api_keys k set last_used_at = l.used_at from locked l where k.id = l.id",
);

/// Records when keys were last used. A crash of PostgreSQL may lose this, which does no harm.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn record_use(store: &Store, uses: &[(KeyHash, DateTime<Utc>)]) -> Result<(), StoreError> {
    let hashes: Vec<&[u8]> = uses.iter().map(|(hash, _)| hash.as_slice()).collect();
    let times: Vec<DateTime<Utc>> = uses.iter().map(|&(_, at)| at).collect();
    let client = store.durable().await?;
    RECORD_USE.execute(&client, &[&hashes, &times]).await?;
    Ok(())
}
