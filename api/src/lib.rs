//! The HTTP API: applications, keys and endpoints are managed here, events are taken in, and everything that
//! became of them can be read. It never sends a webhook and never touches Redis.
//!
//! An event that is answered 202 is on disk together with its deliveries and their outbox rows: events that
//! arrive together are stored by one statement (`accept::batch`).

mod accept;
mod app;
mod auth;
mod config;
mod connections;
mod inbox;
mod metric;
mod probes;
mod readiness;
mod resources;
mod schema;
mod server;
mod specification;
mod storable_json;
mod web;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::{Endpoint, EndpointExt, IntoEndpoint as _, Response, Route};
use postrider_domain::share::Shares;
use postrider_runtime::every::{Next, Tasks};
use postrider_runtime::health::Health;
use postrider_runtime::supervise::{Supervisor, TaskFailed};
use postrider_secrets::endpoints::EndpointQuota;
use postrider_secrets::rekey;
use postrider_store::lock_watch::{self, LockWatch, Tables};
use postrider_store::{DatabaseConfig, Store, StoreError, start};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::ApiConfig;

pub use server::serve_probes;
pub use web::catalogue::{ERROR_CODES, ErrorCode};

use crate::accept::Acceptor;
use crate::accept::batch::Batcher;
use crate::app::App;
use crate::auth::key_use::{self, KeyUse};
use crate::auth::party::Parties;
use crate::inbox::InboxLoop;
use crate::readiness::SchemaReady;
use crate::resources::endpoints::check::UrlRules;
use crate::web::query::QueryParameters;

/// How long storing what was taken in may last after the last connection is closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The part of the health that PostgreSQL is.
const POSTGRESQL: &str = "api_postgresql";
/// How often samples are moved out of the recorder's buffers, whether or not anybody reads the metrics.
const METRICS_CADENCE: Duration = Duration::from_secs(5);

/// The tables without which the API takes no event in.
const TABLES: Tables = Tables {
    written: &["events", "deliveries", "outbox", "idempotency_keys"],
    read: &["applications", "api_keys", "endpoints", "endpoint_health", "event_types"],
};

/// Why the API did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// PostgreSQL has another schema than this program needs, or refuses it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The listener cannot be used.
    #[error("the API cannot accept connections")]
    Serve(#[source] io::Error),
    /// A defect in one of its tasks.
    #[error("the API cannot continue")]
    Task(#[from] TaskFailed),
}

/// Serves the API on `listener` until `shutdown`. A PostgreSQL that is away is waited for: meanwhile requests
/// are answered 503, and those for health and metrics as ever. After `shutdown` no connection is taken any more, requests under way
/// are answered, and what was taken in is stored: for ten seconds each at most.
///
/// # Errors
/// At its start, when PostgreSQL does not fit or the configuration cannot be used; later, when the listener
/// cannot be used, or one of its tasks has panicked.
pub async fn run(
    config: ApiConfig,
    listener: TcpListener,
    health: Health,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> Result<(), ApiError> {
    metric::describe();
    let store = Store::for_requests(&config.database);
    let max_connections = server::max_connections();
    let schema_ready = SchemaReady::new();
    let supervisor = Supervisor::new(&shutdown);
    let stop = supervisor.stop();
    let (batcher, writers) =
        Batcher::start(&store, &health, &supervisor, config.accept_writers, config.accept_queue_bytes);

    let parties = Arc::new(Parties::new(store.clone()));
    let acceptor = Acceptor::new(&store, batcher, parties.clone());
    let app = Arc::new(App {
        store: store.clone(),
        acceptor,
        parties,
        work: web::admission::work(config.database.pool_size),
        fan_outs: Shares::one_at_a_time(),
        requests: Shares::new(max_connections as u64),
        bodies: web::admission::bodies(),
        responses: web::admission::responses(),
        key_use: KeyUse::default(),
        admin_tokens: config.admin_tokens.iter().map(|token| auth::key::hash(token.as_bytes())).collect(),
        keyring: config.keyring,
        url_rules: UrlRules { guard: config.guard, https_only: config.https_only },
        endpoint_quota: EndpointQuota {
            endpoints: config.max_endpoints,
            matching_steps: config.max_matching_steps,
        },
    });
    let background = start_background(&supervisor, &app, &health, &metrics, config.database, &schema_ready);
    let opening = open(&app, &health, &schema_ready, stop);
    let probes = probes::routes(health.clone(), metrics, Some((store, schema_ready.clone())));
    let serving = async {
        let routes = routes(app.clone(), probes, schema_ready.clone());
        let served = server::serve(listener, routes, max_connections, stop.clone()).await;
        stop.cancel();
        served
    };
    let (opened, served) = tokio::join!(opening, serving);

    if tokio::time::timeout(DRAIN_TIMEOUT, writers.drain()).await.is_err() {
        tracing::warn!("events that were taken in could not be stored in time; their producers have no 202");
    }
    background.end().await;
    app.key_use.flush(&app.store).await;
    opened?;
    served.map_err(ApiError::Serve)?;
    Ok(supervisor.outcome()?)
}

/// Starts what goes on until the last request has been answered.
fn start_background(
    supervisor: &Supervisor,
    app: &Arc<App>,
    health: &Health,
    metrics: &PrometheusHandle,
    database: DatabaseConfig,
    schema_ready: &SchemaReady,
) -> Tasks<App> {
    let mut tasks = Tasks::new(supervisor, app);
    tasks.every("api key use", key_use::CADENCE, key_use::flush);
    let metrics = metrics.clone();
    tasks.every("api metrics", METRICS_CADENCE, move |_| {
        metrics.run_upkeep();
        std::future::ready(Ok(Next::Later))
    });
    let locks = LockWatch::new(&app.store, health, "api_locks", TABLES);
    tasks.every("api locks", lock_watch::CADENCE, locks);
    tasks.every("api inbox", inbox::CADENCE, InboxLoop::new(database, schema_ready.clone()));
    tasks
}

/// Waits until PostgreSQL was found to fit, and notes it. Where it does not, `stop` is cancelled.
async fn open(
    app: &App,
    health: &Health,
    schema_ready: &SchemaReady,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let keyring = || rekey::check_keyring(&app.store, &app.keyring);
    match start::until_it_fits(&app.store, keyring, health, POSTGRESQL, stop).await {
        Ok(true) => schema_ready.set(),
        Ok(false) => {}
        Err(error) => {
            stop.cancel();
            return Err(error);
        }
    }
    Ok(())
}

/// The specification of the API (OpenAPI 3.0) as JSON: pretty, in a fixed order, with a newline at its end.
#[must_use]
pub fn specification() -> String {
    specification::text()
}

fn routes(
    app: Arc<App>,
    probes: Route,
    schema_ready: SchemaReady,
) -> impl Endpoint<Output = Response> + 'static {
    let document = specification::document();
    let methods = web::middleware::Methods::of(&document);
    let resources =
        specification::service().into_endpoint().around(web::admission::admit).before(move |request| {
            let schema_ready = schema_ready.clone();
            async move {
                schema_ready.let_in().await?;
                Ok(request)
            }
        });
    let routes = specification::docs::add(probes, specification::text())
        .nest_no_strip("/v1", resources)
        .data(QueryParameters::of(&document))
        .data(app);
    web::middleware::wrap(routes, methods)
}
