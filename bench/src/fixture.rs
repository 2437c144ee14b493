//! The applications and endpoints of a run. They are created before it and removed after it, or named if removal fails.

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use postrider_secrets::signing::Secret;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::installation::Installation;
use crate::options::Options;
use crate::plan::{Behaviour, Lane, Plan, Spread};
use postrider_api_client::{ApiClient, As};

/// Endpoints that are created or removed concurrently.
const SIDE_BY_SIDE: usize = 8;
/// The API's maximum for an endpoint's concurrency limit.
const CONCURRENCY_LIMIT: u32 = 1_000;
/// Enough attempts that random failures never lead to a dead letter.
const MAX_ATTEMPTS: u32 = 20;
/// A port on which nothing listens.
const CLOSED_PORT: u16 = 1;

/// The applications and endpoints of a run.
pub(crate) struct Fixture {
    /// Distinguishes this run's webhooks from those of another run.
    pub(crate) run: String,
    pub(crate) applications: Vec<Application>,
    /// In the order of the numbers in their URLs.
    pub(crate) endpoints: Vec<Endpoint>,
}

pub(crate) struct Application {
    pub(crate) id: String,
    pub(crate) api_key: String,
    is_ours: bool,
}

/// An endpoint, as the receiver knows it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) secret: Secret,
    pub(crate) behaviour: Behaviour,
    /// The position of this endpoint among the deliveries of an event.
    pub(crate) position: usize,
}

#[derive(Deserialize)]
struct NewApplication {
    id: String,
    api_key: String,
}

#[derive(Deserialize)]
struct NewEndpoint {
    id: String,
    secret: String,
}

#[derive(Deserialize)]
struct Existing {
    is_active: bool,
}

/// Returns the event type of a lane, or of one of its endpoints if they are served in turn.
pub(crate) fn event_type(run: &str, lane: usize, spread: Spread, endpoint: usize) -> String {
    match spread {
        Spread::All => format!("bench_{run}.lane_{lane}"),
        Spread::InTurn => format!("bench_{run}.lane_{lane}.endpoint_{endpoint}"),
    }
}

impl Fixture {
    /// Creates what the plan needs. `receiver` is the URL by which the installation reaches the receiver. If something
    /// fails, removes what was created before.
    pub(crate) async fn make(
        installation: &Installation,
        options: &Options,
        plan: &Plan,
        receiver: &Url,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let run = format!("{:08x}", rand::random::<u32>());
        let mut fixture = Self { run, applications: Vec::new(), endpoints: Vec::new() };
        match fixture.fill(&installation.client, options, plan, receiver, shutdown).await {
            Ok(()) => Ok(fixture),
            Err(error) => {
                let left_behind = fixture.remove(&installation.client).await;
                Err(left_behind.into_iter().fold(error, anyhow::Error::context))
            }
        }
    }

    async fn fill(
        &mut self,
        client: &ApiClient,
        options: &Options,
        plan: &Plan,
        receiver: &Url,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let given = options.given.as_ref().and_then(|given| given.application.as_ref());
        if let Some((id, api_key)) = given {
            if plan.applications() > 1 {
                bail!("this scenario needs two applications: use --admin-token instead of --api-key");
            }
            let application = Application { id: id.clone(), api_key: api_key.clone(), is_ours: false };
            check_is_empty(client, &application).await?;
            self.applications.push(application);
        } else {
            for number in 0..plan.applications() {
                self.applications.push(make_application(client, &self.run, number).await?);
            }
        }
        for (number, lane) in plan.lanes.iter().enumerate() {
            let first = self.endpoints.len();
            let applications = &self.applications;
            let run = &self.run;
            // An interrupt does not cut off a request: an endpoint whose id is unknown could not be removed.
            let made: Vec<_> = stream::iter(0..lane.endpoints)
                .take_while(|_| std::future::ready(!shutdown.is_cancelled()))
                .map(|index| async move {
                    let url = endpoint_url(receiver, run, first + index, lane.behaviour)?;
                    let event_type = event_type(run, number, lane.spread, index);
                    let application = &applications[lane.application];
                    make_endpoint(client, application, lane, &url, &event_type, index).await
                })
                .buffered(SIDE_BY_SIDE)
                .try_collect()
                .await?;
            self.endpoints.extend(made);
            if shutdown.is_cancelled() {
                bail!("interrupted before the measurement started");
            }
        }
        Ok(())
    }

    /// Removes what was created, and returns descriptions of what could not be removed.
    pub(crate) async fn remove(self, client: &ApiClient) -> Vec<String> {
        let mut left_behind = Vec::new();
        for application in self.applications.iter().filter(|application| application.is_ours) {
            let path = format!("v1/applications/{}", application.id);
            if let Err(error) = client.delete(&path, As::Admin).await {
                left_behind
                    .push(format!("the application {} could not be deleted: {error:#}", application.id));
            }
        }
        let Some(foreign) = self.applications.iter().find(|application| !application.is_ours) else {
            return left_behind;
        };
        left_behind.push(format!(
            "the events of type bench_{} stay in the application {} for as long as it keeps events",
            self.run, foreign.id
        ));
        let removals = stream::iter(&self.endpoints)
            .map(|endpoint| async move {
                let path = format!("v1/applications/{}/endpoints/{}", foreign.id, endpoint.id);
                let removed = client.delete(&path, As::Key(&foreign.api_key)).await;
                removed
                    .map_err(|error| format!("the endpoint {} could not be deleted: {error:#}", endpoint.id))
            })
            .buffer_unordered(SIDE_BY_SIDE);
        left_behind.extend(removals.filter_map(async |removed| removed.err()).collect::<Vec<_>>().await);
        left_behind
    }
}

/// Fails if the application has endpoints, because they would receive the events of the bench.
async fn check_is_empty(client: &ApiClient, application: &Application) -> anyhow::Result<()> {
    let path = format!("v1/applications/{}/endpoints", application.id);
    let existing = client.list::<Existing>(&path, As::Key(&application.api_key)).await?;
    if existing.iter().any(|endpoint| endpoint.is_active) {
        bail!(
            "the application {} already has endpoints, which could receive the events of the bench: use an \
             application without endpoints",
            application.id
        );
    }
    Ok(())
}

async fn make_application(client: &ApiClient, run: &str, number: usize) -> anyhow::Result<Application> {
    let body = json!({ "name": format!("postrider bench {run}"), "uid": format!("bench_{run}_{number}") });
    let made: NewApplication = client.send(Method::POST, "v1/applications", As::Admin, &body).await?;
    Ok(Application { id: made.id, api_key: made.api_key, is_ours: true })
}

async fn make_endpoint(
    client: &ApiClient,
    application: &Application,
    lane: &Lane,
    url: &Url,
    event_type: &str,
    index: usize,
) -> anyhow::Result<Endpoint> {
    let body: Value = json!({
        "url": url,
        "description": "postrider bench",
        "event_types": [event_type],
        "rate_limit": lane.rate_limit,
        "concurrency_limit": CONCURRENCY_LIMIT,
        "max_attempts": MAX_ATTEMPTS,
        "retry_schedule": [1],
    });
    let path = format!("v1/applications/{}/endpoints", application.id);
    let made: NewEndpoint = client
        .send(Method::POST, &path, As::Key(&application.api_key), &body)
        .await
        .context("cannot create an endpoint; POSTRIDER_ALLOW_NETWORKS must contain the receiver's address")?;
    Ok(Endpoint {
        id: made.id,
        secret: Secret::parse(&made.secret).context("the API returned a secret that is not valid")?,
        behaviour: lane.behaviour,
        position: if lane.spread == Spread::All { index } else { 0 },
    })
}

fn endpoint_url(receiver: &Url, run: &str, number: usize, behaviour: Behaviour) -> anyhow::Result<Url> {
    let mut url = receiver.clone();
    url.path_segments_mut()
        .map_err(|()| anyhow::anyhow!("--receiver-url: `{receiver}` is not a URL that can have a path"))?
        .pop_if_empty()
        .extend([run, &number.to_string()]);
    if behaviour == Behaviour::Refuse {
        let _ = url.set_port(Some(CLOSED_PORT));
    }
    Ok(url)
}
