//! Logs and metrics.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::Source;

/// Upper bounds of the histogram buckets for durations, in seconds.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0];

/// Upper bounds of the histogram buckets for batch sizes.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Starts logging to standard error, once for the process.
///
/// # Errors
/// With a sentence when the filter or the format cannot be read.
pub fn start_logging(source: &Source) -> Result<(), String> {
    let filter = source.get("POSTRIDER_LOG").unwrap_or("info");
    // What libraries say below a warning is not about webhooks.
    let filter = EnvFilter::try_new(format!("warn,{}", widen(filter)))
        .map_err(|error| format!("POSTRIDER_LOG (--log): {error}"))?;
    let is_for_people = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_for_people)
        .with_writer(std::io::stderr);
    let result = match source.get("POSTRIDER_LOG_FORMAT").unwrap_or("text") {
        "text" => builder.try_init(),
        "json" => builder.json().flatten_event(true).try_init(),
        other => {
            return Err(format!(
                "POSTRIDER_LOG_FORMAT (--log-format): `{other}` is neither `text` nor `json`"
            ));
        }
    };
    result.map_err(|error| error.to_string())
}

/// A bare level means the level of Postrider's own modules.
fn widen(filter: &str) -> String {
    let modules =
        ["postrider", "postrider_api", "postrider_relay", "postrider_deliverer", "postrider_shared"];
    let widen_one = |part: &str| {
        if part.contains('=') {
            part.to_owned()
        } else {
            modules.map(|module| format!("{module}={part}")).join(",")
        }
    };
    filter.split(',').map(widen_one).collect::<Vec<_>>().join(",")
}

/// Starts collecting metrics, once for the process; the handle renders them in Prometheus's text format.
///
/// # Panics
/// When it is called twice.
#[must_use]
pub fn start_metrics() -> PrometheusHandle {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES))
        .expect("the buckets are not empty");
    builder.install_recorder().expect("metrics are started once")
}
