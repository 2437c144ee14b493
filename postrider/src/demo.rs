//! The demo of `postrider up --demo`. Once everything runs, it acts as a producer that uses only the public HTTP API,
//! and shows the journey of its events.

mod client;
mod journey;
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use poem::http::StatusCode;
use postrider_runtime::telemetry::Lines;
use postrider_secrets::signing::Secret;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::command::reachable;
use crate::receive::{self, Arrival, FailFirst, ReceiveOptions, Secrets};
use client::Client;
use report::Report;

/// Name of the demo's application and API key.
const NAME: &str = "demo";
/// Events of this type get a 500 response to their first attempt.
const FAILING_EVENT_TYPE: &str = "order.shipped";
/// How long the API may take to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How long all events together may take to arrive.
const DEADLINE: Duration = Duration::from_secs(30);
/// Capacity of the channel for arrivals. After the demo, nothing reads it.
const WAITING_ARRIVALS: usize = 10_000;

/// Runs the demo: receives on `receiver`, posts a few events to the API at `api`, and shows their journey and what to
/// do next. Then returns if `once` is set, or else continues to receive until `shutdown`.
///
/// # Errors
/// If a call of the API fails; with `once`, also if an event did not arrive or was not verified.
pub async fn run(
    api: SocketAddr,
    receiver: TcpListener,
    admin_token: Option<String>,
    once: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let webhook = url(
        receiver.local_addr().context("cannot read the address that the receiver listens on")?,
        "/webhook",
    )?;
    let secrets = watch::Sender::new(Secrets::Awaited);
    let (sender, arrivals) = mpsc::channel(WAITING_ARRIVALS);
    let options = ReceiveOptions {
        secrets: secrets.subscribe(),
        fail_first: Some(fail_first()),
        delay: Duration::ZERO,
        arrivals: Some(sender),
        print: true,
    };
    // The receiver is not stopped at shutdown, so that webhooks in flight still arrive. It ends with the process.
    let mut receiving = tokio::spawn(receive::serve(receiver, options, CancellationToken::new()));

    let demonstration = demonstrate(url(api, "/")?, webhook, admin_token, arrivals, &secrets);
    let report = tokio::select! {
        report = demonstration => report?,
        ended = &mut receiving => return Err(stopped(ended)),
        () = shutdown.cancelled() => return Ok(()),
    };
    let mut text = Vec::new();
    report.write_journeys(&mut text)?;
    report.write_next_steps(&mut text, once)?;
    Lines::stdout().line(text);
    if once {
        if !report.is_complete() {
            bail!("not every event arrived and was verified");
        }
        return Ok(());
    }
    tokio::select! {
        ended = receiving => Err(stopped(ended)),
        () = shutdown.cancelled() => Ok(()),
    }
}

fn stopped(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("the demo's receiver stopped unexpectedly"),
        Ok(Err(error)) => anyhow!(error).context("the demo's receiver failed"),
        Err(error) => anyhow!(error).context("the demo's receiver failed"),
    }
}

/// Returns which webhooks the receiver makes fail, to show a retry.
fn fail_first() -> FailFirst {
    FailFirst {
        attempts: 1,
        event_types: vec![FAILING_EVENT_TYPE.to_owned()],
        status: StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns the URL of a listener as reached from this machine.
fn url(address: SocketAddr, path: &str) -> anyhow::Result<Url> {
    Ok(format!("http://{}{path}", reachable(address)).parse()?)
}

/// Posts the events and follows each to the receiver. Events that do not arrive are not an error; they are part of the
/// report.
async fn demonstrate(
    api: Url,
    webhook: Url,
    admin_token: Option<String>,
    mut arrivals: mpsc::Receiver<Arrival>,
    secrets: &watch::Sender<Secrets>,
) -> anyhow::Result<Report> {
    let client = Client::new(api.clone(), admin_token)?;
    client.wait_ready(Instant::now() + READY_DEADLINE).await?;
    let application = client.application(NAME).await?;
    let api_key = client.fresh_api_key(&application, NAME).await?;
    let endpoint = client.endpoint(&application, &api_key, &webhook).await?;
    let secret = client.secret(&application, &api_key, &endpoint).await?;
    let secret = Secret::parse(&secret).context("the API returned a secret that is not valid")?;
    secrets.send_replace(Secrets::Known(vec![secret]));

    let mut journeys = Vec::new();
    for (event_type, data) in journey::events() {
        journeys.push(journey::post(&client, &api_key, event_type, &data).await?);
    }
    let deadline = Instant::now() + DEADLINE;
    journey::follow(&mut journeys, &mut arrivals, deadline).await;
    for journey in &mut journeys {
        journey::read_back(&client, &api_key, &endpoint, journey, deadline).await?;
    }
    Ok(Report { api, webhook, api_key, journeys })
}
