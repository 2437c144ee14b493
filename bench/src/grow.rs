//! An installation that has grown: stored deliveries and a backlog, made in SQL.

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

/// Rows of one statement.
const STEP: u64 = 10_000;
/// Over how long the stored events are spread: nearly all that is kept by default.
const STORED_SPAN: Duration = Duration::from_secs(28 * 86_400);
/// And the backlog, which no endpoint is allowed to have for longer.
const BACKLOG_SPAN: Duration = Duration::from_secs(86_400);

/// How much there is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Deliveries that succeeded.
    pub(crate) stored: u64,
    /// Deliveries that wait, all of them for the endpoint of the last lane.
    pub(crate) backlog: u64,
}

/// Makes the rows. Ends early after `shutdown`.
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
    // A key is used once, so the backlog goes on where the stored ones end.
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
