//! Creates the rows of an installation that has grown: stored deliveries and a backlog, by SQL.

use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_runtime::config::Source;
use postrider_store::synthetic::{self, Kind, Stock};
use postrider_store::{DatabaseConfig, Store};
use tokio_util::sync::CancellationToken;

use crate::fixture::Fixture;
use crate::options::Options;
use crate::payload;

/// Rows per statement.
const STEP: u64 = 10_000;
/// Period over which stored events are spread: almost the default retention.
const STORED_SPAN: Duration = Duration::from_secs(28 * 86_400);
/// Period over which the backlog is spread.
const BACKLOG_SPAN: Duration = Duration::from_secs(86_400);

/// How many rows to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Deliveries that have succeeded.
    pub(crate) stored: u64,
    /// Open deliveries, all for the endpoint of the last lane.
    pub(crate) backlog: u64,
}

/// Creates the rows. Stops early after `shutdown`.
pub(crate) async fn grow(
    database_url: &str,
    options: &Options,
    fixture: &Fixture,
    growth: Growth,
    mark: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut source = Source::gather(|_| None, |_| None);
    source.set("DATABASE_URL", database_url);
    let store = Store::new(&source.read(DatabaseConfig::read)?);
    let application = fixture.applications.first().context("there is no application")?;
    let application_id: ApplicationId =
        application.id.parse().context("the id of the application is not a UUID")?;
    let ids: Vec<EndpointId> = fixture
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id.parse())
        .collect::<Result<_, _>>()
        .context("the id of an endpoint is not a UUID")?;
    let (backlogged, endpoints) = ids.split_last().context("there is no endpoint")?;
    let padding = payload::padding(options.payload_bytes, options.seed);
    let event_type = format!("bench_{}.stock", fixture.run);
    let stock = |kind, total: u64| Stock {
        application_id,
        endpoints: if kind == Kind::Backlog { std::slice::from_ref(backlogged) } else { endpoints },
        event_type: &event_type,
        kind,
        mark,
        padding: &padding,
        total: total as i64,
        span: if kind == Kind::Backlog { BACKLOG_SPAN } else { STORED_SPAN },
    };
    let bar = ProgressBar::new(growth.stored + growth.backlog);
    let style = ProgressStyle::with_template("making rows {wide_bar} {pos}/{len}  {per_sec}  {eta}");
    bar.set_style(style.expect("the template is valid"));
    // Idempotency keys are unique, so the numbers of the backlog continue those of the stored events.
    let parts = [(Kind::Delivered, 0, growth.stored), (Kind::Backlog, growth.stored, growth.backlog)];
    for (kind, first, count) in parts {
        let stock = stock(kind, first + count);
        for start in (first..first + count).step_by(STEP as usize) {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            let step = STEP.min(first + count - start);
            synthetic::synthesize(&store, &stock, start as i64, step as i64).await?;
            bar.inc(step);
        }
    }
    bar.finish_and_clear();
    Ok(())
}
