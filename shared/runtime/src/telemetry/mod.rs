//! Logs and metrics.

mod lines;
pub(crate) mod metric;

use std::error::Error;
use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

pub use lines::Lines;

use crate::config::Source;
use crate::supervise;

/// Upper bounds of the histogram buckets for durations, in seconds.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0];

/// Upper bounds of the histogram buckets for batch sizes.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not valid.
    #[error("POSTRIDER_LOG (--log): {0}")]
    Filter(#[from] ParseError),
    /// The format is not known.
    #[error("POSTRIDER_LOG_FORMAT (--log-format): `{0}` is neither `text` nor `json`")]
    Format(String),
    /// Logging was already started.
    #[error(transparent)]
    Start(Box<dyn Error + Send + Sync>),
}

/// Starts logging to standard error, once for the process. Panics are logged too. If the log cannot be written, lines
/// are lost but nothing waits for it.
///
/// # Errors
/// [`LoggingError`] if the filter or the format is not valid, or logging was already started.
pub fn start_logging(source: &Source) -> Result<(), LoggingError> {
    let filter = source.get("POSTRIDER_LOG").unwrap_or("info");
    // Messages of libraries below `warn` are not about webhooks. `deadpool` reports every lost connection of a pool,
    // but the health of the service already reports the outage once.
    let filter = EnvFilter::try_new(format!("warn,deadpool=error,{}", widen(filter)))?;
    let is_for_people = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_for_people)
        .log_internal_errors(false)
        .with_writer(Lines::stderr().clone());
    let result = match source.get("POSTRIDER_LOG_FORMAT").unwrap_or("text") {
        "text" => builder.try_init(),
        "json" => builder.json().flatten_event(true).try_init(),
        other => return Err(LoggingError::Format(other.to_owned())),
    };
    // The default hook would write to standard error directly, and wait for it.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic: {}", supervise::message(panic.payload()));
    }));
    result.map_err(LoggingError::Start)
}

/// Writes `text` after everything that was logged, and waits up to one second for it.
pub fn last_words(text: String) {
    Lines::stderr().line(text);
    flush();
}

/// Waits until everything that was logged or shown is written, for at most one second each.
pub fn flush() {
    Lines::stdout().flush();
    Lines::stderr().flush();
}

/// Applies a bare level to Postrider's own modules.
fn widen(filter: &str) -> String {
    let modules = [
        "postrider",
        "postrider_api",
        "postrider_relay",
        "postrider_deliverer",
        "postrider_queue",
        "postrider_runtime",
        "postrider_secrets",
        "postrider_store",
    ];
    let widen_one = |part: &str| {
        if part.contains('=') {
            part.to_owned()
        } else {
            modules.map(|module| format!("{module}={part}")).join(",")
        }
    };
    filter.split(',').map(widen_one).collect::<Vec<_>>().join(",")
}

/// Starts collecting metrics, once for the process. The handle renders them in the Prometheus text format.
///
/// # Panics
/// If it is called twice.
#[must_use]
pub fn start_metrics() -> PrometheusHandle {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES))
        .expect("the buckets are not empty");
    let handle = builder.install_recorder().expect("metrics are started only once");
    metric::describe();
    handle
}
