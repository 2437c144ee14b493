//! `postrider receive` runs a receiver for trying things out.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::ArgMatches;
use poem::http::StatusCode;
use postrider_runtime::config::Mistakes;
use postrider_secrets::signing::Secret;
use tokio::sync::watch;

use super::{print, serve, signals};
use crate::receive::{FailFirst, ReceiveOptions, Secrets, serve as receive};

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let mut mistakes = Vec::new();
    let address = listen_address(matches, "listen").map_err(|error| mistakes.push(error.to_string())).ok();
    let mut secrets = Vec::new();
    for text in matches.get_many::<String>("secret").unwrap_or_default() {
        match Secret::parse(text) {
            Ok(secret) => secrets.push(secret),
            Err(error) => mistakes.push(format!("POSTRIDER_RECEIVER_SECRET (--secret): {error}")),
        }
    }
    let Some(address) = address.filter(|_| mistakes.is_empty()) else {
        return Err(Mistakes(mistakes).into());
    };
    let shutdown = signals::shutdown()?;
    let listener = serve::bind(address, "the receiver", "listen").await?;
    let attempts = *matches.get_one::<u32>("fail-first").ok_or_else(|| anyhow!("it has a default"))?;
    let delay = *matches.get_one::<u64>("delay-ms").ok_or_else(|| anyhow!("it has a default"))?;
    let fail_first = (attempts > 0).then_some(FailFirst {
        attempts,
        event_types: Vec::new(),
        status: StatusCode::INTERNAL_SERVER_ERROR,
    });
    let secrets = if secrets.is_empty() { Secrets::None } else { Secrets::Known(secrets) };
    print(&format!("receiving at http://{address}/webhook\n"))?;
    let options = ReceiveOptions {
        secrets: watch::Sender::new(secrets).subscribe(),
        fail_first,
        delay: Duration::from_millis(delay),
        arrivals: None,
        print: true,
    };
    receive(listener, options, shutdown).await.context("the receiver failed")
}

/// Parses the address in a flag.
pub(super) fn listen_address(matches: &ArgMatches, flag: &str) -> anyhow::Result<SocketAddr> {
    let text = matches.get_one::<String>(flag).map(String::as_str).unwrap_or_default();
    text.parse().with_context(|| format!("--{flag}: `{text}` is not an address such as `127.0.0.1:9000`"))
}
