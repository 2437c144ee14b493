//! Master keys: which are in use, and everything encrypted anew after a change.
//!
//! A step is a short transaction, so that it may be interrupted, run again and run twice, beside services
//! that have the old and the new key.

use std::collections::BTreeMap;

use postgres_types::Json;
use uuid::Uuid;

use super::headers::StoredHeader;
use super::secrets::StoredKey;
use super::{Store, StoreError};
use crate::ids::EndpointId;
use crate::keyring::{Keyring, KeyringError, SIGNING, Stored};

/// Of secrets there is an index by master key; sensitive headers are few.
const MASTER_KEYS: &str = "-- endpoint_secrets.master_keys
with recursive walk as (
    select min(master_key_id) as id from endpoint_secrets
    union all
    select (select min(s.master_key_id) from endpoint_secrets s where s.master_key_id > w.id)
    from walk w
    where w.id is not null
)
select id from walk where id is not null
union
select h.value ->> 'key'
from endpoints e
cross join lateral jsonb_each(e.headers) h
where e.sensitive_headers <> '{}' and jsonb_typeof(h.value) = 'object'
limit 1000";

/// Refuses a keyring without a key that secrets are encrypted under: whoever serves without it would fail
/// webhook by webhook.
///
/// # Errors
/// With a sentence that names the key, or when PostgreSQL does not answer.
pub async fn check_keyring(store: &Store, keyring: &Keyring) -> Result<(), StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(MASTER_KEYS).await?;
    for row in client.query(&statement, &[]).await? {
        let id: &str = row.get(0);
        if !keyring.has(id) {
            return Err(StoreError::Schema(format!(
                "secrets are encrypted under the master key `{id}`, which is not in POSTRIDER_MASTER_KEY: \
                 add it behind the others, and run `postrider rekey` to be rid of it"
            )));
        }
    }
    Ok(())
}

const STALE: &str = "-- endpoint_secrets.stale
select id, endpoint_id, algorithm, secret, master_key_id
from endpoint_secrets
where id = any (
    array(select id from endpoint_secrets where master_key_id is null limit $2)
    || array(select id from endpoint_secrets where master_key_id < $1 limit $2)
    || array(select id from endpoint_secrets where master_key_id > $1 limit $2)
)
order by id
limit $2
for update";

const RESEAL: &str = "-- endpoint_secrets.reseal
update endpoint_secrets s
set secret = r.secret, master_key_id = $3
from unnest($1::uuid[], $2::bytea[]) as r (id, secret)
where s.id = r.id";

/// Encrypts up to `limit` signing keys under the current master key that are not yet, and answers how many;
/// 0: all are.
///
/// # Errors
/// When PostgreSQL does not answer, there is no master key, or a key cannot be decrypted.
pub async fn keys_step(store: &Store, keyring: &Keyring, limit: i64) -> Result<usize, StoreError> {
    let current = current(keyring)?;
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let stale = transaction.prepare_cached(STALE).await?;
    let rows = transaction.query(&stale, &[&current, &limit]).await?;
    let mut ids: Vec<Uuid> = Vec::with_capacity(rows.len());
    let mut resealed = Vec::with_capacity(rows.len());
    for row in &rows {
        let endpoint: EndpointId = row.get(1);
        let stored = Stored { bytes: row.get(3), master_key_id: row.get(4) };
        let key = StoredKey { algorithm: row.get(2), stored }
            .open(keyring, endpoint)
            .map_err(|error| StoreError::Schema(format!("endpoint {endpoint}: {error}")))?;
        ids.push(row.get(0));
        resealed.push(keyring.seal(endpoint, SIGNING, key.as_bytes()).bytes);
    }
    let reseal = transaction.prepare_cached(RESEAL).await?;
    transaction.execute(&reseal, &[&ids, &resealed, &current]).await?;
    transaction.commit().await?;
    Ok(rows.len())
}

fn current(keyring: &Keyring) -> Result<&str, StoreError> {
    keyring
        .current_id()
        .ok_or_else(|| StoreError::Schema("there is no master key to encrypt under".to_owned()))
}

const HEADERS: &str = "-- endpoints.with_sensitive_headers
select id, headers, sensitive_headers
from endpoints
where sensitive_headers <> '{}' and id > $1
order by id
limit $2
for no key update";

const RESEAL_HEADERS: &str = "-- endpoints.reseal_headers
update endpoints e
set headers = r.headers
from unnest($1::uuid[], $2::jsonb[]) as r (id, headers)
where e.id = r.id";

/// What a step has done with the headers of some endpoints.
#[derive(Debug, Clone, Copy)]
pub struct HeadersStep {
    /// Endpoints whose headers were encrypted anew.
    pub resealed: usize,
    /// Where the next step goes on; `None`: this was the last.
    pub next: Option<EndpointId>,
}

/// Encrypts the sensitive headers of the next endpoints after `after` under the current master key, `limit`
/// endpoints at most.
///
/// # Errors
/// When PostgreSQL does not answer, there is no master key, or a value cannot be decrypted.
pub async fn headers_step(
    store: &Store,
    keyring: &Keyring,
    after: Option<EndpointId>,
    limit: i64,
) -> Result<HeadersStep, StoreError> {
    let current = current(keyring)?;
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let list = transaction.prepare_cached(HEADERS).await?;
    let rows = transaction.query(&list, &[&after.map_or(Uuid::nil(), |id| id.0), &limit]).await?;
    let mut ids = Vec::new();
    let mut resealed = Vec::new();
    for row in &rows {
        let endpoint: EndpointId = row.get(0);
        let Json(mut headers) = row.get::<_, Json<BTreeMap<String, StoredHeader>>>(1);
        let sensitive: Vec<String> = row.get(2);
        let is_stale =
            |header: &StoredHeader| !matches!(header, StoredHeader::Sealed { key, .. } if key == current);
        let mut has_changed = false;
        for (name, header) in &mut headers {
            if sensitive.contains(name) && is_stale(header) {
                *header = reseal(keyring, endpoint, name, header.clone())
                    .map_err(|error| StoreError::Schema(format!("endpoint {endpoint}: `{name}` {error}")))?;
                has_changed = true;
            }
        }
        if has_changed {
            ids.push(endpoint);
            resealed.push(Json(headers));
        }
    }
    let reseal = transaction.prepare_cached(RESEAL_HEADERS).await?;
    transaction.execute(&reseal, &[&ids, &resealed]).await?;
    transaction.commit().await?;
    Ok(HeadersStep { resealed: ids.len(), next: rows.last().map(|row| row.get(0)) })
}

fn reseal(
    keyring: &Keyring,
    endpoint: EndpointId,
    name: &str,
    header: StoredHeader,
) -> Result<StoredHeader, KeyringError> {
    let value = header.open(keyring, endpoint, name)?;
    Ok(StoredHeader::seal(keyring, endpoint, name, value))
}
