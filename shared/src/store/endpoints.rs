//! Endpoints: where an application's webhooks go.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use postgres_types::Json;
use tokio_postgres::Row;

use super::page::Page;
use super::{Store, StoreError};
use crate::filter::Filter;
use crate::ids::{ApplicationId, EndpointId};
use crate::signing::Secret;

/// The settings of an endpoint that its application chooses.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// Where it is, absolute.
    pub url: String,
    /// For people.
    pub description: String,
    /// A JSON object of the application's, as text.
    pub metadata: String,
    /// Patterns of event types.
    pub event_types: Vec<String>,
    /// Sent with every webhook.
    pub headers: BTreeMap<String, String>,
    /// Which of them are write-only, by name.
    pub sensitive_headers: Vec<String>,
    /// Requests per second; `None`: no limit.
    pub rate_limit: Option<i32>,
    /// Exchanges under way at once.
    pub concurrency_limit: i32,
    /// Attempts of each delivery.
    pub max_attempts: i16,
    /// Seconds before each retry; `None`: the schedule of the installation.
    pub retry_schedule: Option<Vec<i32>>,
    /// Statuses that are never retried; `None`: the default list.
    pub permanent_statuses: Option<Vec<i16>>,
    /// For a whole exchange.
    pub timeout_seconds: i16,
    /// Which payloads it gets; `None`: all.
    pub filter: Option<Filter>,
    /// Keeps the order of acceptance.
    pub ordered: bool,
}

/// An endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub application_id: ApplicationId,
    /// What its application chose.
    pub settings: EndpointSettings,
    /// False: new events do not match it, and what is open waits.
    pub is_active: bool,
    /// Why it is not active.
    pub disabled_reason: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What became of an endpoint that was to be made.
#[derive(Debug, Clone)]
pub enum Created {
    /// It is there.
    Endpoint(Box<Endpoint>),
    /// The application has as many as it may have.
    TooMany,
    /// The application is not there (any more).
    UnknownApplication,
}

macro_rules! columns {
    () => {
        "id, application_id, url, description, metadata::text, event_types, headers, sensitive_headers, \
         rate_limit, concurrency_limit, max_attempts, retry_schedule, permanent_statuses, timeout_seconds, \
         filter::text, filter_path::text, ordered, is_active, disabled_reason, created_at, updated_at"
    };
}

/// Makes those who create endpoints of one application take turns, so that they count right.
const LOCK: &str = "-- applications.lock
select id from applications where id = $1 and deleted_at is null for no key update";

const COUNT: &str = "-- endpoints.count
select count(*) from endpoints where application_id = $1 and deleted_at is null";

const CREATE: &str = concat!(
    "-- endpoints.create
insert into endpoints (
    application_id, url, description, metadata, event_types, headers, sensitive_headers, rate_limit,
    concurrency_limit, max_attempts, retry_schedule, permanent_statuses, timeout_seconds, ordered, is_active,
    filter, filter_path
)
values ($1, $2, $3, $4::text::jsonb, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::text::jsonb,
        $17::text::jsonpath)
returning ",
    columns!()
);

const CREATE_SECRET: &str = "-- endpoint_secrets.create
insert into endpoint_secrets (endpoint_id, secret) values ($1, $2)";

/// Makes an endpoint with its secret, unless its application has `max_endpoints` already.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn create(
    store: &Store,
    application: ApplicationId,
    settings: &EndpointSettings,
    is_active: bool,
    secret: &Secret,
    max_endpoints: u32,
) -> Result<Created, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let lock = transaction.prepare_cached(LOCK).await?;
    if transaction.query_opt(&lock, &[&application]).await?.is_none() {
        return Ok(Created::UnknownApplication);
    }
    let count = transaction.prepare_cached(COUNT).await?;
    let existing: i64 = transaction.query_one(&count, &[&application]).await?.get(0);
    if existing >= i64::from(max_endpoints) {
        return Ok(Created::TooMany);
    }
    let insert = transaction.prepare_cached(CREATE).await?;
    let row = transaction
        .query_one(
            &insert,
            &[
                &application,
                &settings.url,
                &settings.description,
                &settings.metadata,
                &settings.event_types,
                &Json(&settings.headers),
                &settings.sensitive_headers,
                &settings.rate_limit,
                &settings.concurrency_limit,
                &settings.max_attempts,
                &settings.retry_schedule,
                &settings.permanent_statuses,
                &settings.timeout_seconds,
                &settings.ordered,
                &is_active,
                &settings.filter.as_ref().map(|filter| &filter.json),
                &settings.filter.as_ref().map(|filter| &filter.path),
            ],
        )
        .await?;
    let endpoint = parse(&row);
    let insert_secret = transaction.prepare_cached(CREATE_SECRET).await?;
    transaction.execute(&insert_secret, &[&endpoint.id, &secret.as_bytes()]).await?;
    transaction.commit().await?;
    Ok(Created::Endpoint(Box::new(endpoint)))
}

const FIND: &str = concat!(
    "-- endpoints.get
select ",
    columns!(),
    "
from endpoints
where application_id = $1 and id = $2 and deleted_at is null"
);

/// One endpoint of an application.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn get(
    store: &Store,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<Option<Endpoint>, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(FIND).await?;
    let row = client.query_opt(&statement, &[&application, &endpoint]).await?;
    Ok(row.as_ref().map(parse))
}

const LIST: &str = concat!(
    "-- endpoints.list
select ",
    columns!(),
    "
from endpoints
where application_id = $1 and id < $2 and deleted_at is null
order by id desc
limit $3"
);

/// The endpoints of an application, newest first, `limit` at most.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn list(
    store: &Store,
    application: ApplicationId,
    cursor: Option<EndpointId>,
    limit: u32,
) -> Result<Page<Endpoint>, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(LIST).await?;
    let below = cursor.map_or(uuid::Uuid::max(), |id| id.0);
    let rows = client.query(&statement, &[&application, &below, &(i64::from(limit) + 1)]).await?;
    Ok(Page::of_one_more(rows.iter().map(parse).collect(), limit as usize, |endpoint| endpoint.id.0))
}

const UNKNOWN: &str = "-- endpoints.unknown
select i.id
from unnest($2::uuid[]) as i (id)
where not exists (
    select from endpoints e where e.id = i.id and e.application_id = $1 and e.deleted_at is null
)";

/// Those of the endpoints that are not the application's, or were deleted.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn unknown(
    store: &Store,
    application: ApplicationId,
    endpoints: &[EndpointId],
) -> Result<Vec<EndpointId>, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(UNKNOWN).await?;
    let rows = client.query(&statement, &[&application, &endpoints]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const FIND_SECRET: &str = "-- endpoint_secrets.get
select s.secret
from endpoint_secrets s
join endpoints e on e.id = s.endpoint_id
where e.application_id = $1 and e.id = $2 and e.deleted_at is null
  and s.algorithm = 'hmac-sha256' and s.master_key_id is null
  and (s.expires_at is null or s.expires_at > now())
order by s.id desc
limit 1";

/// The newest live secret of an endpoint.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn get_secret(
    store: &Store,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<Option<Secret>, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(FIND_SECRET).await?;
    let row = client.query_opt(&statement, &[&application, &endpoint]).await?;
    row.map(|row| Secret::from_bytes(row.get(0)))
        .transpose()
        .map_err(|error| StoreError::Schema(format!("the stored secret of endpoint {endpoint} {error}")))
}

fn parse(row: &Row) -> Endpoint {
    Endpoint {
        id: row.get(0),
        application_id: row.get(1),
        settings: EndpointSettings {
            url: row.get(2),
            description: row.get(3),
            metadata: row.get(4),
            event_types: row.get(5),
            headers: row.get::<_, Json<BTreeMap<String, String>>>(6).0,
            sensitive_headers: row.get(7),
            rate_limit: row.get(8),
            concurrency_limit: row.get(9),
            max_attempts: row.get(10),
            retry_schedule: row.get(11),
            permanent_statuses: row.get(12),
            timeout_seconds: row.get(13),
            filter: row.get::<_, Option<_>>(14).map(|json| Filter { json, path: row.get(15) }),
            ordered: row.get(16),
        },
        is_active: row.get(17),
        disabled_reason: row.get(18),
        created_at: row.get(19),
        updated_at: row.get(20),
    }
}
