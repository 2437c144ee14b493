//! What endpoints sign with: made, read and rotated.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_store::audit::{self, Actor, Change};
use postrider_store::{Store, StoreError};
use serde::Serialize;
use tokio_postgres::Row;

use crate::keyring::{Keyring, SIGNING, Stored};
use crate::signing::{Algorithm, SigningKey};

/// Keys that sign at once, at most: each makes the header of every webhook longer.
pub const MAX_LIVE: usize = 10;

/// A key that signs.
#[derive(Debug, Clone)]
pub struct LiveKey {
    /// The key.
    pub key: SigningKey,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends; `None`: it is the newest.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key of an endpoint as it is stored, to be opened by whoever has the master key.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// How it signs.
    pub algorithm: Algorithm,
    /// Its bytes.
    pub stored: Stored,
}

impl StoredKey {
    /// The key.
    ///
    /// # Errors
    /// With a sentence, when its master key is not there, or it was changed.
    pub fn open(&self, keyring: &Keyring, endpoint: EndpointId) -> Result<SigningKey, String> {
        let bytes =
            keyring.open(endpoint, SIGNING, &self.stored).map_err(|error| format!("the secret {error}"))?;
        SigningKey::from_bytes(self.algorithm, bytes).map_err(|error| format!("the stored secret {error}"))
    }
}

/// What became of a rotation.
#[derive(Debug, Clone)]
pub enum Rotated {
    /// All live keys, newest first.
    Keys(Vec<LiveKey>),
    /// As many keys sign already as may.
    TooMany,
    /// There is no such endpoint.
    Unknown,
}

const INSERT: &str = "-- endpoint_secrets.create
insert into endpoint_secrets (endpoint_id, algorithm, secret, master_key_id)
values ($1, $2, $3, $4)";

/// Adds a key to an endpoint.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    keyring: &Keyring,
    endpoint: EndpointId,
    key: &SigningKey,
) -> Result<(), StoreError> {
    let stored = keyring.seal(endpoint, SIGNING, key.as_bytes());
    let statement = transaction.prepare_cached(INSERT).await?;
    transaction
        .execute(&statement, &[&endpoint, &key.algorithm(), &stored.bytes, &stored.master_key_id])
        .await?;
    Ok(())
}

const LIST: &str = "-- endpoint_secrets.list
select s.algorithm, s.secret, s.master_key_id, s.created_at, s.expires_at
from endpoints e
join endpoint_secrets s on s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > now())
where e.application_id = $1 and e.id = $2 and e.deleted_at is null
order by s.id desc";

/// Reads the live keys of an endpoint, newest first, and notes who has read them; none where there is no such endpoint.
///
/// # Errors
/// When PostgreSQL does not answer, or a key cannot be decrypted.
pub async fn read(
    store: &Store,
    keyring: &Keyring,
    actor: &Actor,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<Vec<LiveKey>, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let statement = transaction.prepare_cached(LIST).await?;
    let rows = transaction.query(&statement, &[&application, &endpoint]).await?;
    let keys = rows.iter().map(|row| live(row, keyring, endpoint)).collect::<Result<Vec<_>, _>>()?;
    if !keys.is_empty() {
        let change = Change::none("endpoint.read_secret", endpoint.0);
        audit::note(&transaction, application, actor, change).await?;
    }
    transaction.commit().await?;
    Ok(keys)
}

fn live(row: &Row, keyring: &Keyring, endpoint: EndpointId) -> Result<LiveKey, StoreError> {
    let stored = Stored { bytes: row.get(1), master_key_id: row.get(2) };
    let key = StoredKey { algorithm: row.get(0), stored }
        .open(keyring, endpoint)
        .map_err(|error| StoreError::Schema(format!("endpoint {endpoint}: {error}")))?;
    Ok(LiveKey { key, created_at: row.get(3), expires_at: row.get(4) })
}

const LOCK: &str = "-- endpoints.lock_for_secrets
select id from endpoints where application_id = $1 and id = $2 and deleted_at is null for no key update";

const EXPIRE: &str = "-- endpoint_secrets.expire
update endpoint_secrets
set expires_at = least(expires_at, now() + make_interval(secs => $2))
where endpoint_id = $1";

const FORGET: &str = "-- endpoint_secrets.forget
delete from endpoint_secrets where endpoint_id = $1 and expires_at <= now()";

const ALGORITHM: &str = "-- endpoint_secrets.algorithm
select algorithm from endpoint_secrets where endpoint_id = $1 order by id desc limit 1";

const COUNT: &str = "-- endpoint_secrets.count
select count(*) from endpoint_secrets where endpoint_id = $1";

/// What the audit log keeps of a rotation.
#[derive(Serialize)]
struct Rotation<'a> {
    algorithm: &'a str,
    overlap_seconds: u64,
}

/// Gives an endpoint a new key (`None`: one of the algorithm of its newest); no older one signs for longer than `overlap`, and with none of it they are
/// gone at once.
///
/// # Errors
/// When PostgreSQL does not answer, or a key cannot be decrypted.
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
    let lock = transaction.prepare_cached(LOCK).await?;
    if transaction.query_opt(&lock, &[&application, &endpoint]).await?.is_none() {
        return Ok(Rotated::Unknown);
    }
    let key = match key {
        Some(key) => key,
        None => {
            let newest = transaction.prepare_cached(ALGORITHM).await?;
            let newest = transaction.query_opt(&newest, &[&endpoint]).await?;
            SigningKey::generate(newest.map_or(Algorithm::HmacSha256, |row| row.get(0)))
        }
    };
    let expire = transaction.prepare_cached(EXPIRE).await?;
    transaction.execute(&expire, &[&endpoint, &overlap.as_secs_f64()]).await?;
    let forget = transaction.prepare_cached(FORGET).await?;
    transaction.execute(&forget, &[&endpoint]).await?;
    let count = transaction.prepare_cached(COUNT).await?;
    let live_keys: i64 = transaction.query_one(&count, &[&endpoint]).await?.get(0);
    if live_keys >= MAX_LIVE as i64 {
        return Ok(Rotated::TooMany);
    }
    insert(&transaction, keyring, endpoint, &key).await?;
    let list = transaction.prepare_cached(LIST).await?;
    let rows = transaction.query(&list, &[&application, &endpoint]).await?;
    let keys: Result<Vec<_>, _> = rows.iter().map(|row| live(row, keyring, endpoint)).collect();
    let keys = keys?;
    let rotation = Rotation { algorithm: key.algorithm().as_str(), overlap_seconds: overlap.as_secs() };
    let change = Change::of("endpoint.rotate_secret", endpoint.0, None, Some(&rotation));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Rotated::Keys(keys))
}
