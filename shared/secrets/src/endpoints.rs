//! Endpoints: the destinations of an application's webhooks.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use postgres_types::Json;
use postrider_domain::event_type;
use postrider_domain::filter::Filter;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_store::audit::{self, Actor, Change};
use postrider_store::page::{self, Page};
use postrider_store::sql::{Columns, FromRow, Sql, read};
use postrider_store::{Store, StoreError, applications};
use serde::Serialize;

use crate::headers::{self, StoredValue};
use crate::keyring::Keyring;
use crate::secrets;
use crate::signing::SigningKey;
use crate::stored_url::StoredUrl;

/// The settings of an endpoint that its application chooses.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointSettings {
    /// The absolute URL. When it is read, the values of its query are replaced with [`MASK`](headers::MASK). Writing
    /// the masked URL back keeps the stored values.
    pub url: String,
    /// A description for people.
    pub description: String,
    /// A JSON object that belongs to the application, as text.
    #[serde(serialize_with = "audit::raw")]
    pub metadata: String,
    /// The patterns of event types that it subscribes to.
    pub event_types: Vec<String>,
    /// Headers that are sent with every webhook. When they are read, the value of a sensitive header is
    /// [`MASK`](headers::MASK). Writing the mask back keeps the stored value.
    pub headers: BTreeMap<String, String>,
    /// The names of the headers that are write-only.
    pub sensitive_headers: Vec<String>,
    /// The most requests per second, or `None` for no limit.
    pub rate_limit: Option<i32>,
    /// The most exchanges in flight.
    pub concurrency_limit: i32,
    /// The number of attempts of each delivery.
    pub max_attempts: i16,
    /// Seconds before each retry, or `None` for the schedule of the installation.
    pub retry_schedule: Option<Vec<i32>>,
    /// Response statuses that are never retried.
    pub permanent_statuses: Vec<i16>,
    /// The timeout of a whole exchange, in seconds.
    pub timeout_seconds: i16,
    /// Selects the payloads that it gets. `None` means all.
    #[serde(serialize_with = "filter_json")]
    pub filter: Option<Filter>,
    /// Whether deliveries keep the order of acceptance.
    pub ordered: bool,
}

/// An endpoint. It is serialised as the audit log records it.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// The id of the endpoint.
    #[serde(skip)]
    pub id: EndpointId,
    /// The application that it belongs to.
    #[serde(skip)]
    pub application_id: ApplicationId,
    /// The settings that its application chose.
    #[serde(flatten)]
    pub settings: EndpointSettings,
    /// Whether new events match it. If false, open deliveries wait.
    pub is_active: bool,
    /// Why it is disabled, or `None` if it is active.
    pub disabled_reason: Option<String>,
    /// When it was created.
    #[serde(skip)]
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub updated_at: DateTime<Utc>,
}

/// An endpoint to create.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// The settings that its application chose.
    pub settings: EndpointSettings,
    /// If false, the endpoint is created disabled.
    pub is_active: bool,
    /// The first signing key.
    pub key: SigningKey,
}

/// The quota for the endpoints of one application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointQuota {
    /// The maximum number of endpoints.
    pub endpoints: u32,
    /// The maximum number of steps to match one event with all of them.
    pub matching_steps: u32,
}

impl EndpointSettings {
    /// Returns the maximum number of steps that the filter takes for one event.
    #[must_use]
    pub fn filter_steps(&self) -> i32 {
        self.filter.as_ref().map_or(0, |filter| filter.steps)
    }

    /// Returns the number of steps to compare the event types with the type of one event.
    #[must_use]
    pub fn pattern_steps(&self) -> i32 {
        event_type::pattern_steps(&self.event_types)
    }

    /// Returns the maximum number of steps to match one event.
    #[must_use]
    pub fn matching_steps(&self) -> i32 {
        self.filter_steps().saturating_add(self.pattern_steps())
    }
}

/// The result of creating an endpoint.
#[derive(Debug, Clone)]
pub enum Created {
    /// The created endpoint.
    Endpoint(Box<Endpoint>),
    /// The application already has the maximum number of endpoints.
    TooMany,
    /// With this endpoint, matching one event would take this many steps in the application, which is more than its
    /// quota.
    MatchingTooCostly(i64),
    /// The application does not exist.
    UnknownApplication,
}

fn filter_json<S: serde::Serializer>(filter: &Option<Filter>, serializer: S) -> Result<S::Ok, S::Error> {
    match filter {
        Some(filter) => audit::raw(&filter.json, serializer),
        None => serializer.serialize_none(),
    }
}

macro_rules! endpoint_columns {
    () => {
        "id, application_id, url, description, metadata::text as metadata, event_types, headers, sensitive_headers, \
         rate_limit, concurrency_limit, max_attempts, retry_schedule, permanent_statuses, timeout_seconds, \
         filter::text as filter, filter_path::text as filter_path, ordered, is_active, disabled_reason, created_at, updated_at, url_query, \
         filter_steps"
    };
}
pub(super) use endpoint_columns;

const COUNT: Sql = Sql::named(
    "-- endpoints.count
select count(*) as count from endpoints where application_id = $1 and deleted_at is null",
);

const MATCHING_STEPS: Sql = Sql::named(
    "-- endpoints.matching_steps
select coalesce(sum(filter_steps + pattern_steps), 0)::bigint as steps
from endpoints
where application_id = $1 and id <> $2 and deleted_at is null",
);

/// Returns the number of steps to match one event with all endpoints of the application, including the new state of
/// this one, if it exceeds the quota. The caller holds the [lock](applications::lock_to_add).
pub(super) async fn excessive_steps(
    transaction: &Transaction<'_>,
    application: ApplicationId,
    endpoint: EndpointId,
    settings: &EndpointSettings,
    quota: EndpointQuota,
) -> Result<Option<i64>, StoreError> {
    let others: i64 = MATCHING_STEPS.fetch_one(transaction, &[&application, &endpoint]).await?.get("steps");
    let steps = others + i64::from(settings.matching_steps());
    Ok((steps > i64::from(quota.matching_steps)).then_some(steps))
}

const CREATE: Sql = Sql::named(concat!(
    "-- endpoints.create
insert into endpoints (
    id, application_id, url, description, metadata, event_types, headers, sensitive_headers, rate_limit,
    concurrency_limit, max_attempts, retry_schedule, permanent_statuses, timeout_seconds, ordered, is_active,
    filter, filter_path, url_query, filter_steps, pattern_steps
)
values ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
        $17::text::jsonb, $18::text::jsonpath, $19, $20, $21)
returning ",
    endpoint_columns!()
));

/// Creates an endpoint with its signing key, unless the application would exceed its quota of endpoints or matching
/// steps.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn create(
    store: &Store,
    keyring: &Keyring,
    actor: &Actor,
    application: ApplicationId,
    new: &NewEndpoint,
    quota: EndpointQuota,
) -> Result<Created, StoreError> {
    let NewEndpoint { settings, is_active, key } = new;
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    // The id is needed before the row exists, because the endpoint's secrets are bound to it.
    let Some(id) = applications::lock_to_add(&transaction, application).await?.map(EndpointId) else {
        return Ok(Created::UnknownApplication);
    };
    let existing: i64 = COUNT.fetch_one(&transaction, &[&application]).await?.get("count");
    if existing >= i64::from(quota.endpoints) {
        return Ok(Created::TooMany);
    }
    if let Some(steps) = excessive_steps(&transaction, application, id, settings, quota).await? {
        return Ok(Created::MatchingTooCostly(steps));
    }
    let url = StoredUrl::seal(keyring, id, &settings.url, None);
    let row = CREATE
        .fetch_one(
            &transaction,
            &[
                &id,
                &application,
                &url.shown(),
                &settings.description,
                &settings.metadata,
                &settings.event_types,
                &Json(headers::seal(keyring, id, settings, BTreeMap::new())),
                &settings.sensitive_headers,
                &settings.rate_limit,
                &settings.concurrency_limit,
                &settings.max_attempts,
                &settings.retry_schedule,
                &settings.permanent_statuses,
                &settings.timeout_seconds,
                &settings.ordered,
                is_active,
                &settings.filter.as_ref().map(|filter| &filter.json),
                &settings.filter.as_ref().map(|filter| &filter.path),
                &url.query(),
                &settings.filter_steps(),
                &settings.pattern_steps(),
            ],
        )
        .await?;
    let endpoint = read::<Endpoint>(&row);
    secrets::insert(&transaction, keyring, id, key).await?;
    let change = Change::of("endpoint.create", id.0, None, Some(&endpoint));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Created::Endpoint(Box::new(endpoint)))
}

const FIND: Sql = Sql::named(concat!(
    "-- endpoints.get
select ",
    endpoint_columns!(),
    "
from endpoints
where application_id = $1 and id = $2 and deleted_at is null"
));

/// Returns one endpoint of an application.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(
    store: &Store,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<Option<Endpoint>, StoreError> {
    let client = store.durable().await?;
    let row = FIND.fetch_optional(&client, &[&application, &endpoint]).await?;
    Ok(row.as_ref().map(read))
}

const LIST: Sql = Sql::named(concat!(
    "-- endpoints.list
select ",
    endpoint_columns!(),
    "
from endpoints
where application_id = $1 and id < $2 and deleted_at is null
order by id desc
limit $3"
));

/// Returns up to `limit` endpoints of an application, newest first.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    application: ApplicationId,
    cursor: Option<EndpointId>,
    limit: u32,
) -> Result<Page<Endpoint>, StoreError> {
    let client = store.durable().await?;
    let below = cursor.map_or(uuid::Uuid::max(), |id| id.0);
    let rows = page::read(&client, LIST, &[&application, &below, &(i64::from(limit) + 1)], limit).await?;
    Ok(Page::of(&rows, |endpoint: &Endpoint| endpoint.id.0))
}

impl FromRow<'_> for Endpoint {
    fn from_row(row: &mut Columns<'_>) -> Self {
        let sensitive_headers: Vec<String> = row.get("sensitive_headers");
        let Json(stored) = row.get::<Json<BTreeMap<String, StoredValue>>>("headers");
        Self {
            id: row.get("id"),
            application_id: row.get("application_id"),
            settings: EndpointSettings {
                url: row.get("url"),
                description: row.get("description"),
                metadata: row.get("metadata"),
                event_types: row.get("event_types"),
                headers: headers::mask(stored, &sensitive_headers),
                sensitive_headers,
                rate_limit: row.get("rate_limit"),
                concurrency_limit: row.get("concurrency_limit"),
                max_attempts: row.get("max_attempts"),
                retry_schedule: row.get("retry_schedule"),
                permanent_statuses: row.get("permanent_statuses"),
                timeout_seconds: row.get("timeout_seconds"),
                filter: row.get::<Option<_>>("filter").map(|json| Filter {
                    json,
                    path: row.get("filter_path"),
                    steps: row.get("filter_steps"),
                }),
                ordered: row.get("ordered"),
            },
            is_active: row.get("is_active"),
            disabled_reason: row.get("disabled_reason"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
        }
    }
}
