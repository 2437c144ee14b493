//! Master keys: checks which are in use, and encrypts everything again after a change.
//!
//! Each step is a short transaction. It can be interrupted, repeated, and run at the same time as services that have
//! the old and the new key.

use std::collections::BTreeMap;

use postgres_types::Json;
use postrider_domain::ids::EndpointId;
use postrider_store::{Store, StoreError};
use uuid::Uuid;

use crate::headers::StoredValue;
use crate::keyring::{Keyring, SIGNING};
use crate::secrets::{StoredKey, UnreadableSecret, secret_of};
use crate::stored_url::QUERY;
use postrider_store::sql::{Sql, read};

/// There is an index of secrets by master key. Endpoints with secret values are few, so they need none.
const MASTER_KEYS: Sql = Sql::named(
    "-- endpoint_secrets.master_keys
with recursive walk as (
    select min(master_key_id) as id from endpoint_secrets
    union all
    select (select min(s.master_key_id) from endpoint_secrets s where s.master_key_id > w.id)
    from walk w
    where w.id is not null
)
select id from walk where id is not null
union
select v.value ->> 'key' as id
from endpoints e
cross join lateral (
    select h.value from jsonb_each(e.headers) h
    union all
    select e.url_query
) v
where (e.sensitive_headers <> '{}' or e.url_query is not null) and jsonb_typeof(v.value) = 'object'
limit 1000",
);

/// Checks that the keyring has every key that secrets are encrypted with. Without one, a service would start and then
/// fail webhook by webhook.
///
/// # Errors
/// [`StoreError::MissingMasterKey`] with the id of a missing key, or another [`StoreError`] if the statement fails.
pub async fn check_keyring(store: &Store, keyring: &Keyring) -> Result<(), StoreError> {
    let client = store.durable().await?;
    for row in MASTER_KEYS.fetch_all(&client, &[]).await? {
        let id: &str = row.get("id");
        if !keyring.has(id) {
            return Err(StoreError::MissingMasterKey(id.to_owned()));
        }
    }
    Ok(())
}

const STALE: Sql = Sql::named(
    "-- endpoint_secrets.stale
select id, endpoint_id, algorithm, secret, master_key_id
from endpoint_secrets
where id = any (
    array(select id from endpoint_secrets where master_key_id is null limit $2)
    || array(select id from endpoint_secrets where master_key_id < $1 limit $2)
    || array(select id from endpoint_secrets where master_key_id > $1 limit $2)
)
order by id
limit $2
for update",
);

const RESEAL: Sql = Sql::named(
    "-- endpoint_secrets.reseal
update endpoint_secrets s
set secret = r.secret, master_key_id = $3
from unnest($1::uuid[], $2::bytea[]) as r (id, secret)
where s.id = r.id",
);

/// Encrypts up to `limit` signing keys that are not yet encrypted with the current master key. Returns how many it
/// encrypted, or 0 if none was left.
///
/// # Errors
/// [`StoreError`] if a statement fails, there is no master key, or a key cannot be decrypted.
pub async fn keys_step(store: &Store, keyring: &Keyring, limit: i64) -> Result<usize, StoreError> {
    let current = current(keyring)?;
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let rows = STALE.fetch_all(&transaction, &[&current, &limit]).await?;
    let mut ids: Vec<Uuid> = Vec::with_capacity(rows.len());
    let mut resealed = Vec::with_capacity(rows.len());
    for row in &rows {
        let endpoint: EndpointId = row.get("endpoint_id");
        let key = read::<StoredKey>(row).open(keyring, endpoint).map_err(secret_of(endpoint))?;
        ids.push(row.get("id"));
        resealed.push(keyring.seal(endpoint, SIGNING, key.as_bytes()).bytes);
    }
    RESEAL.execute(&transaction, &[&ids, &resealed, &current]).await?;
    transaction.commit().await?;
    Ok(rows.len())
}

fn current(keyring: &Keyring) -> Result<&str, StoreError> {
    keyring.current_id().ok_or(StoreError::NoMasterKey)
}

const SECRET_VALUES: Sql = Sql::named(
    "-- endpoints.with_secret_values
select id, headers, sensitive_headers, url_query
from endpoints
where (sensitive_headers <> '{}' or url_query is not null) and id > $1
order by id
limit $2
for no key update",
);

const RESEAL_VALUES: Sql = Sql::named(
    "-- endpoints.reseal_values
update endpoints e
set headers = r.headers, url_query = r.url_query
from unnest($1::uuid[], $2::jsonb[], $3::jsonb[]) as r (id, headers, url_query)
where e.id = r.id",
);

/// The result of a step over the headers and URLs of endpoints.
#[derive(Debug, Clone, Copy)]
pub struct EndpointsStep {
    /// The number of endpoints of which something was encrypted.
    pub resealed: usize,
    /// Where the next step continues, or `None` if this was the last step.
    pub next: Option<EndpointId>,
}

/// Encrypts the sensitive headers and URL queries of the next endpoints after `after` with the current master key.
/// Takes up to `limit` endpoints.
///
/// # Errors
/// [`StoreError`] if a statement fails, there is no master key, or a value cannot be decrypted.
pub async fn endpoints_step(
    store: &Store,
    keyring: &Keyring,
    after: Option<EndpointId>,
    limit: i64,
) -> Result<EndpointsStep, StoreError> {
    let current = current(keyring)?;
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let rows =
        SECRET_VALUES.fetch_all(&transaction, &[&after.map_or(Uuid::nil(), |id| id.0), &limit]).await?;
    let (mut ids, mut all_headers, mut queries) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        let endpoint: EndpointId = row.get("id");
        let Json(mut headers) = row.get::<_, Json<BTreeMap<String, StoredValue>>>("headers");
        let sensitive: Vec<String> = row.get("sensitive_headers");
        let is_stale =
            |value: &StoredValue| !matches!(value, StoredValue::Sealed { key, .. } if key == current);
        let mut query: Option<Json<StoredValue>> = row.get("url_query");
        let headers_to_seal = headers.iter_mut().filter(|(name, _)| sensitive.contains(name));
        let values = headers_to_seal.map(|(name, value)| (name.as_str(), value));
        let mut has_changed = false;
        for (name, value) in values.chain(query.as_mut().map(|Json(query)| (QUERY, query))) {
            if is_stale(value) {
                *value = reseal(keyring, endpoint, name, value.clone()).map_err(secret_of(endpoint))?;
                has_changed = true;
            }
        }
        if has_changed {
            ids.push(endpoint);
            all_headers.push(Json(headers));
            queries.push(query);
        }
    }
    RESEAL_VALUES.execute(&transaction, &[&ids, &all_headers, &queries]).await?;
    transaction.commit().await?;
    Ok(EndpointsStep { resealed: ids.len(), next: rows.last().map(|row| row.get("id")) })
}

fn reseal(
    keyring: &Keyring,
    endpoint: EndpointId,
    name: &str,
    value: StoredValue,
) -> Result<StoredValue, UnreadableSecret> {
    let unreadable = |source| UnreadableSecret::Value { name: name.to_owned(), source };
    let value = value.open(keyring, endpoint, name).map_err(unreadable)?;
    Ok(StoredValue::seal(keyring, endpoint, name, value))
}
