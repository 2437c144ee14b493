//! The signing keys of endpoints: created, read and rotated.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_store::audit::{self, Actor, Change};
use postrider_store::{Store, StoreError};
use serde::Serialize;
use tokio_postgres::Row;

use crate::keyring::{Keyring, KeyringError, SIGNING, Stored};
use crate::signing::{Algorithm, SecretError, SigningKey};
use postrider_store::sql::{self, Columns, FromRow, Sql};

/// The maximum number of keys that sign at the same time. Each one makes the header of every webhook longer.
pub const MAX_LIVE: usize = 10;

/// A key that signs webhooks now.
#[derive(Debug, Clone)]
pub struct LiveKey {
    /// The key.
    pub key: SigningKey,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it stops signing, or `None` for the newest key.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A stored key of an endpoint. Opening it requires the master key.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// How the key signs.
    pub algorithm: Algorithm,
    /// The stored bytes of the key.
    pub stored: Stored,
}

impl StoredKey {
    /// Returns the key.
    ///
    /// # Errors
    /// [`UnreadableSecret`] if its master key is missing, or the stored value was changed.
    pub fn open(&self, keyring: &Keyring, endpoint: EndpointId) -> Result<SigningKey, UnreadableSecret> {
        let bytes = keyring.open(endpoint, SIGNING, &self.stored)?;
        Ok(SigningKey::from_bytes(self.algorithm, bytes)?)
    }
}

impl FromRow<'_> for StoredKey {
    fn from_row(row: &mut Columns<'_>) -> Self {
        let algorithm = row.get("algorithm");
        let stored = Stored { bytes: row.get("secret"), master_key_id: row.get("master_key_id") };
        Self { algorithm, stored }
    }
}

/// Why a stored secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableSecret {
    /// A signing key cannot be decrypted.
    #[error("the secret {0}")]
    Encrypted(#[from] KeyringError),
    /// The decrypted value is not a signing key.
    #[error("the stored secret {0}")]
    Malformed(#[from] SecretError),
    /// A header or the query of a URL cannot be decrypted.
    #[error("`{name}` {source}")]
    Value {
        /// The name of the header, or the name that stands for the query.
        name: String,
        /// The cause.
        source: KeyringError,
    },
}

/// Adds to an error the endpoint whose secret cannot be read.
pub(super) fn secret_of(endpoint: EndpointId) -> impl Fn(UnreadableSecret) -> StoreError {
    move |reason| StoreError::Secret { endpoint, reason: reason.into() }
}

/// The result of a rotation.
#[derive(Debug, Clone)]
pub enum Rotated {
    /// All live keys, newest first.
    Keys(Vec<LiveKey>),
    /// The maximum number of keys already signs.
    TooMany,
    /// The endpoint does not exist.
    Unknown,
}

const INSERT: Sql = Sql::named(
    "-- endpoint_secrets.create
insert into endpoint_secrets (endpoint_id, algorithm, secret, master_key_id)
values ($1, $2, $3, $4)",
);

/// Adds a key to an endpoint.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    keyring: &Keyring,
    endpoint: EndpointId,
    key: &SigningKey,
) -> Result<(), StoreError> {
    let stored = keyring.seal(endpoint, SIGNING, key.as_bytes());
    INSERT.execute(transaction, &[&endpoint, &key.algorithm(), &stored.bytes, &stored.master_key_id]).await?;
    Ok(())
}

const LIST: Sql = Sql::named(
    "-- endpoint_secrets.list
select s.algorithm, s.secret, s.master_key_id, s.created_at, s.expires_at
from endpoints e
join endpoint_secrets s on s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > now())
where e.application_id = $1 and e.id = $2 and e.deleted_at is null
order by s.id desc",
);

/// Returns the live keys of an endpoint, newest first, and writes to the audit log who read them. Returns none if the
/// endpoint does not exist.
///
/// # Errors
/// [`StoreError`] if a statement fails, or a key cannot be decrypted.
pub async fn read(
    store: &Store,
    keyring: &Keyring,
    actor: &Actor,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<Vec<LiveKey>, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let rows = LIST.fetch_all(&transaction, &[&application, &endpoint]).await?;
    let keys = rows.iter().map(|row| live(row, keyring, endpoint)).collect::<Result<Vec<_>, _>>()?;
    if !keys.is_empty() {
        let change = Change::none("endpoint.read_secret", endpoint.0);
        audit::note(&transaction, application, actor, change).await?;
    }
    transaction.commit().await?;
    Ok(keys)
}

fn live(row: &Row, keyring: &Keyring, endpoint: EndpointId) -> Result<LiveKey, StoreError> {
    let key = sql::read::<StoredKey>(row).open(keyring, endpoint).map_err(secret_of(endpoint))?;
    Ok(LiveKey { key, created_at: row.get("created_at"), expires_at: row.get("expires_at") })
}

const LOCK: Sql = Sql::named(
    "-- endpoints.lock_for_secrets
select id from endpoints where application_id = $1 and id = $2 and deleted_at is null for no key update",
);

const EXPIRE: Sql = Sql::named(
    "-- endpoint_secrets.expire
update endpoint_secrets
set expires_at = least(expires_at, now() + make_interval(secs => $2))
where endpoint_id = $1",
);

const FORGET: Sql = Sql::named(
    "-- endpoint_secrets.forget
delete from endpoint_secrets where endpoint_id = $1 and expires_at <= now()",
);

const ALGORITHM: Sql = Sql::named(
    "-- endpoint_secrets.algorithm
select algorithm from endpoint_secrets where endpoint_id = $1 order by id desc limit 1",
);

const COUNT: Sql = Sql::named(
    "-- endpoint_secrets.count
select count(*) as count from endpoint_secrets where endpoint_id = $1",
);

/// What the audit log records about a rotation.
#[derive(Serialize)]
struct Rotation<'a> {
    algorithm: &'a str,
    overlap_seconds: u64,
}

/// Gives an endpoint a new key, or generates one with the algorithm of its newest key if `key` is `None`. Older keys
/// sign for at most `overlap` longer. If it is zero, they are removed at once.
///
/// # Errors
/// [`StoreError`] if a statement fails, or a key cannot be decrypted.
pub async fn rotate(
    store: &Store,
    keyring: &Keyring,
    actor: &Actor,
    (application, endpoint): (ApplicationId, EndpointId),
    key: Option<SigningKey>,
    overlap: Duration,
) -> Result<Rotated, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    if LOCK.fetch_optional(&transaction, &[&application, &endpoint]).await?.is_none() {
        return Ok(Rotated::Unknown);
    }
    let key = match key {
        Some(key) => key,
        None => {
            let newest = ALGORITHM.fetch_optional(&transaction, &[&endpoint]).await?;
            SigningKey::generate(newest.map_or(Algorithm::HmacSha256, |row| row.get("algorithm")))
        }
    };
    EXPIRE.execute(&transaction, &[&endpoint, &overlap.as_secs_f64()]).await?;
    FORGET.execute(&transaction, &[&endpoint]).await?;
    let live_keys: i64 = COUNT.fetch_one(&transaction, &[&endpoint]).await?.get("count");
    if live_keys >= MAX_LIVE as i64 {
        return Ok(Rotated::TooMany);
    }
    insert(&transaction, keyring, endpoint, &key).await?;
    let rows = LIST.fetch_all(&transaction, &[&application, &endpoint]).await?;
    let keys: Result<Vec<_>, _> = rows.iter().map(|row| live(row, keyring, endpoint)).collect();
    let keys = keys?;
    let rotation = Rotation { algorithm: key.algorithm().as_str(), overlap_seconds: overlap.as_secs() };
    let change = Change::of("endpoint.rotate_secret", endpoint.0, None, Some(&rotation));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Rotated::Keys(keys))
}
