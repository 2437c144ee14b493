//! The HTTP API: it manages applications, API keys and endpoints, accepts events, and reports on deliveries and
//! attempts. It never sends a webhook and never connects to Redis.
//!
//! When an event gets its 202, it is on disk together with its deliveries and their outbox rows. Events that arrive
//! together are stored by one statement (`accept::batch`).

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

/// How long shutdown waits, after the last connection is closed, for accepted events to be stored.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of PostgreSQL's part in `/health/ready`.
const POSTGRESQL: &str = "api_postgresql";
/// How often the metrics recorder empties its buffers. It does so even if no one reads the metrics; otherwise they
/// would grow.
const METRICS_CADENCE: Duration = Duration::from_secs(5);

/// The tables that the API needs to accept events.
const TABLES: Tables = Tables {
    written: &["events", "deliveries", "outbox", "idempotency_keys"],
    read: &["applications", "api_keys", "endpoints", "endpoint_health", "event_types"],
};

/// Why the API failed to start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The database has a different schema than this program needs, does not exist, or refuses the role; or the
    /// keyring does not fit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The listener failed.
    #[error("the API cannot accept connections")]
    Serve(#[source] io::Error),
    /// A background task panicked.
    #[error("the API cannot continue")]
    Task(#[from] TaskFailed),
}

/// Serves the API on `listener` until `shutdown`.
///
/// While PostgreSQL is unavailable, the API waits for it and responds to requests with 503; health and metrics still
/// work. After `shutdown` it accepts no more connections, completes the requests in flight, and stores the events it
/// has accepted. Each of the two steps takes at most ten seconds.
///
/// # Errors
/// At startup, if the database does not fit or the configuration cannot be used. Later, if the listener fails or a
/// background task panics.
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
        tracing::warn!("some submitted events were not stored before shutdown; their producers got no 202");
    }
    background.end().await;
    app.key_use.flush(&app.store).await;
    opened?;
    served.map_err(ApiError::Serve)?;
    Ok(supervisor.outcome()?)
}

/// Starts the background tasks that run until the last request has its response.
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

/// Waits until PostgreSQL is reachable and its schema fits, and then sets `schema_ready`. Cancels `stop` if it does
/// not fit.
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

/// Returns the OpenAPI 3.0 document of the API as pretty-printed JSON, in a fixed order, with a final newline.
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
