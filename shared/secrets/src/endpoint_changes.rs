//! Changes to endpoints: update, disable, enable and delete. Each change writes an outbox row for the relay, the audit
//! log and operational events in one transaction.

use deadpool_postgres::Transaction;
use postgres_types::Json;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_store::audit::{self, Actor, Change};
use postrider_store::operational::{self, ENDPOINT_DISABLED, ENDPOINT_ENABLED, OperationalEvent};
use postrider_store::sql::{Sql, read};
use postrider_store::{Store, StoreError, applications, cleanups};
use serde_json::json;
use tokio_postgres::Row;

use crate::endpoints::{Endpoint, EndpointQuota, EndpointSettings, endpoint_columns, excessive_steps};
use crate::headers::{self, MASK};
use crate::keyring::Keyring;
use crate::stored_url::StoredUrl;

/// What happens to the open deliveries of an endpoint when it is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenDeliveries {
    /// They wait until the endpoint is enabled.
    #[default]
    Keep,
    /// They are cancelled.
    Cancel,
}

/// The new state of an endpoint.
#[derive(Debug, Clone)]
pub struct Update {
    /// All its settings.
    pub settings: EndpointSettings,
    /// Whether new events match the endpoint.
    pub is_active: bool,
    /// Why it is disabled, or `None` if it is active.
    pub disabled_reason: Option<String>,
    /// What happens to its open deliveries if it is disabled.
    pub open_deliveries: OpenDeliveries,
}

const LOCK: Sql = Sql::named(concat!(
    "-- endpoints.lock_to_change
select ",
    endpoint_columns!(),
    "
from endpoints
where application_id = $1 and id = $2 and deleted_at is null
for no key update"
));

const UPDATE: Sql = Sql::named(concat!(
    "-- endpoints.update
update endpoints
set url = $2, description = $3, metadata = $4::text::jsonb, event_types = $5, headers = $6,
    sensitive_headers = $7, rate_limit = $8, concurrency_limit = $9, max_attempts = $10,
    retry_schedule = $11, permanent_statuses = $12, timeout_seconds = $13,
    ordered = $14, is_active = $15, disabled_reason = $16, filter = $17::text::jsonb,
    filter_path = $18::text::jsonpath, url_query = $19, filter_steps = $20, pattern_steps = $21,
    updated_at = now()
where id = $1
returning ",
    endpoint_columns!()
));

/// Tells the relay that an endpoint changed. The relay sends its limits to Redis, and examines its parked rows again.
const TELL_RELAY: Sql = Sql::named(
    "-- outbox.tell_endpoint
with told as (
    insert into outbox (endpoint_id, application_id)
    select id, application_id from endpoints where id = $1
    returning id
)
select count(pg_notify('postrider_outbox', '')) as notifications from told",
);

/// An endpoint that is enabled starts with a clean record.
const FORGIVE: Sql = Sql::named(
    "-- endpoint_health.forgive
update endpoint_health
set failing_since = null, cleared_at = now(), updated_at = now()
where endpoint_id = $1",
);

/// The result of an update.
#[derive(Debug, Clone)]
pub enum Updated {
    /// The endpoint after the update.
    Endpoint(Box<Endpoint>),
    /// With the new filter or event types, matching one event would take this many steps in the application, which is
    /// more than its quota. Nothing was changed.
    MatchingTooCostly(i64),
    /// The endpoint does not exist.
    Unknown,
}

/// Updates an endpoint to what `change` returns for its current state. Refuses the update if it makes matching more
/// costly and the application exceeds its quota of matching steps.
///
/// # Errors
/// The error of `change`, or [`StoreError`] if a statement fails. Nothing was changed then.
pub async fn update<E: From<StoreError>>(
    store: &Store,
    keyring: &Keyring,
    actor: &Actor,
    application: ApplicationId,
    endpoint: EndpointId,
    quota: EndpointQuota,
    change: impl FnOnce(&Endpoint) -> Result<Update, E>,
) -> Result<Updated, E> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await.map_err(StoreError::from)?;
    // Serialises changes within the application, so that the sum of matching steps is right.
    if applications::lock_to_add(&transaction, application).await?.is_none() {
        return Ok(Updated::Unknown);
    }
    let Some(row) = lock(&transaction, application, endpoint).await? else {
        return Ok(Updated::Unknown);
    };
    let before = read::<Endpoint>(&row);
    let update = change(&before)?;
    if update.settings.matching_steps() > before.settings.matching_steps()
        && let Some(steps) =
            excessive_steps(&transaction, application, endpoint, &update.settings, quota).await?
    {
        return Ok(Updated::MatchingTooCostly(steps));
    }
    let after = write(&transaction, keyring, endpoint, &update, &row).await?;
    if update.open_deliveries == OpenDeliveries::Cancel {
        let reason = "the endpoint was disabled, and what was open cancelled";
        cleanups::cancel_open(&transaction, endpoint, reason).await?;
    }
    if before.settings.ordered && !after.settings.ordered {
        cleanups::queue_what_waited(&transaction, endpoint).await?;
    }
    follow(&transaction, actor, &before, &after).await?;
    let mut shown = after.clone();
    tell_new_values(&mut shown, &update.settings);
    let change = Change::of("endpoint.update", endpoint.0, Some(&before), Some(&shown));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await.map_err(StoreError::from)?;
    Ok(Updated::Endpoint(Box::new(after)))
}

async fn lock(
    transaction: &Transaction<'_>,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<Option<Row>, StoreError> {
    LOCK.fetch_optional(transaction, &[&application, &endpoint]).await
}

async fn write(
    transaction: &Transaction<'_>,
    keyring: &Keyring,
    endpoint: EndpointId,
    Update { settings, is_active, disabled_reason, .. }: &Update,
    before: &Row,
) -> Result<Endpoint, StoreError> {
    let Json(stored) = before.get("headers");
    let url = StoredUrl::seal(keyring, endpoint, &settings.url, Some(read(before)));
    let row = UPDATE
        .fetch_one(
            transaction,
            &[
                &endpoint,
                &url.shown(),
                &settings.description,
                &settings.metadata,
                &settings.event_types,
                &Json(headers::seal(keyring, endpoint, settings, stored)),
                &settings.sensitive_headers,
                &settings.rate_limit,
                &settings.concurrency_limit,
                &settings.max_attempts,
                &settings.retry_schedule,
                &settings.permanent_statuses,
                &settings.timeout_seconds,
                &settings.ordered,
                is_active,
                disabled_reason,
                &settings.filter.as_ref().map(|filter| &filter.json),
                &settings.filter.as_ref().map(|filter| &filter.path),
                &url.query(),
                &settings.filter_steps(),
                &settings.pattern_steps(),
            ],
        )
        .await?;
    Ok(read::<Endpoint>(&row))
}

/// Marks replaced secret values in the audit log. Neither the old nor the new value is shown.
fn tell_new_values(shown: &mut Endpoint, written: &EndpointSettings) {
    if shown.settings.url != written.url {
        shown.settings.url.push_str(" (new)");
    }
    for name in &written.sensitive_headers {
        if written.headers.get(name).is_some_and(|value| value != MASK) {
            shown.settings.headers.insert(name.clone(), format!("{MASK} (new)"));
        }
    }
}

/// Does what every change requires: notifies the relay, and emits an operational event if the endpoint was disabled or
/// enabled.
async fn follow(
    transaction: &Transaction<'_>,
    actor: &Actor,
    before: &Endpoint,
    after: &Endpoint,
) -> Result<(), StoreError> {
    TELL_RELAY.fetch_one(transaction, &[&after.id]).await?;
    if before.is_active == after.is_active {
        return Ok(());
    }
    if after.is_active {
        FORGIVE.execute(transaction, &[&after.id]).await?;
    }
    let event = OperationalEvent {
        application_id: after.application_id,
        event_type: if after.is_active { ENDPOINT_ENABLED } else { ENDPOINT_DISABLED },
        data: json!({
            "endpoint_id": after.id,
            "url": after.settings.url,
            "description": after.settings.description,
            "reason": after.disabled_reason,
            "by": if *actor == Actor::Postrider { "postrider" } else { "hand" },
        }),
    };
    operational::emit(transaction, &[event]).await?;
    Ok(())
}

const DELETE: Sql = Sql::named(
    "-- endpoints.delete
update endpoints set deleted_at = now(), updated_at = now() where id = $1",
);

/// Deletes an endpoint. No new event matches it, and its open deliveries are cancelled by the next claim or by the
/// relay. Returns false if it does not exist.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn delete(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<bool, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(row) = lock(&transaction, application, endpoint).await? else {
        return Ok(false);
    };
    DELETE.execute(&transaction, &[&endpoint]).await?;
    cleanups::remove_endpoint(&transaction, endpoint).await?;
    let change = Change::of("endpoint.delete", endpoint.0, Some(&read::<Endpoint>(&row)), None);
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(true)
}

const LOCK_TO_DISABLE: Sql = Sql::named(concat!(
    "-- endpoints.lock_to_disable
select ",
    endpoint_columns!(),
    "
from endpoints e
where id = $1 and deleted_at is null and is_active
  and ($3::text is null or url = $3 and url_query is not distinct from $4::jsonb)
  and ($2::double precision is null or exists (
      select from endpoint_health h
      where h.endpoint_id = e.id and h.failing_since <= now() - make_interval(secs => $2)
  ))
for no key update"
));

const DISABLE: Sql = Sql::named(concat!(
    "-- endpoints.disable
update endpoints
set is_active = false, disabled_reason = $2, updated_at = now()
where id = $1
returning ",
    endpoint_columns!()
));

/// Why an endpoint is disabled.
#[derive(Debug, Clone)]
pub enum Cause {
    /// The receiver at this URL responded 410.
    Gone(StoredUrl),
    /// All attempts have failed for this long.
    Failing(std::time::Duration),
}

/// Disables an endpoint because of its receiver's responses. Its open deliveries wait. Returns false if the endpoint is
/// not active, has succeeded in the meantime, or has a different URL by now.
///
/// This is separate from the record of attempts, because many transactions read endpoint rows, and they must not be
/// locked together with deliveries.
///
/// # Errors
/// [`StoreError`] if a statement fails. The receiver's next response has the same effect.
pub async fn disable(
    store: &Store,
    endpoint: EndpointId,
    reason: &str,
    cause: &Cause,
) -> Result<bool, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let (seconds, url) = match cause {
        Cause::Gone(url) => (None, Some(url)),
        Cause::Failing(duration) => (Some(duration.as_secs_f64()), None),
    };
    let (shown, query) = (url.map(StoredUrl::shown), url.and_then(StoredUrl::query));
    let Some(row) =
        LOCK_TO_DISABLE.fetch_optional(&transaction, &[&endpoint, &seconds, &shown, &query]).await?
    else {
        return Ok(false);
    };
    let before = read::<Endpoint>(&row);
    let after = read::<Endpoint>(&DISABLE.fetch_one(&transaction, &[&endpoint, &reason]).await?);
    follow(&transaction, &Actor::Postrider, &before, &after).await?;
    let change = Change::of("endpoint.update", endpoint.0, Some(&before), Some(&after));
    audit::note(&transaction, after.application_id, &Actor::Postrider, change).await?;
    transaction.commit().await?;
    Ok(true)
}
