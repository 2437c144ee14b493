//! The installation to measure: a given one or a private one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use crate::options::{Given, Options};
use crate::private::Private;
use crate::roster::{BENCH, POSTGRES, REDIS, Roster};
use postrider_api_client::ApiClient;

/// How long a given installation may take to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(10);

/// An installation that is ready.
pub(crate) struct Installation {
    pub(crate) api: Url,
    pub(crate) client: ApiClient,
    pub(crate) metrics: Vec<Url>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) private: Option<Private>,
}

impl Installation {
    /// Starts a private installation, or waits until the given one is ready.
    pub(crate) async fn open(options: &Options) -> anyhow::Result<Self> {
        let roster = Arc::new(Roster::default());
        roster.runs(BENCH, std::process::id());
        let Some(given) = &options.given else {
            let private = Private::start(options, roster.clone()).await?;
            let (api, metrics) = (private.api()?, private.metrics()?);
            let client = ApiClient::new(api.clone(), Some(private.admin_token.clone()))?;
            return Ok(Self { api, client, metrics, roster, private: Some(private) });
        };
        let Given { api, admin_token, .. } = given;
        let mut metrics = given.metrics.clone();
        if metrics.is_empty() {
            metrics.push(api.join("metrics")?);
        }
        if given.processes.is_empty() {
            ["api", "relay", "deliverer", POSTGRES, REDIS].into_iter().for_each(|name| roster.exists(name));
        }
        for (name, pid) in &given.processes {
            roster.runs(name, *pid);
        }
        let client = ApiClient::new(api.clone(), admin_token.clone())?;
        client.wait_ready(Instant::now() + READY_DEADLINE).await?;
        Ok(Self { api: api.clone(), client, metrics, roster, private: None })
    }

    /// Stops what was started.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self.private {
            Some(private) => private.stop().await,
            None => Ok(()),
        }
    }
}
