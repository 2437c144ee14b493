//! `postrider health` checks the health of a service on this machine, for container images without another HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use postrider_runtime::config::{Service, Source, listen_address};

use super::print;

/// How long the service may take to respond.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(matches: &ArgMatches, source: &Source) -> anyhow::Result<()> {
    let service = match matches.get_one::<String>("service").map(String::as_str) {
        Some("relay") => Service::Relay,
        Some("deliverer") => Service::Deliverer,
        _ => Service::Api,
    };
    let question = if matches.get_flag("live") { "live" } else { "ready" };
    let address = reachable(source.read(|reader| listen_address(reader, service))?);
    let url = format!("http://{address}/health/{question}");
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let response = client.get(&url).send().await.with_context(|| format!("no response from {url}"))?;
    let status = response.status();
    let body = response.text().await.with_context(|| format!("the response from {url} was incomplete"))?;
    if !status.is_success() {
        bail!("{url} responded with {status}: {body}");
    }
    print(&format!("{body}\n"))
}

/// Returns the address at which this machine reaches a listener: loopback, if it listens on all interfaces.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_where_it_listens() {
        for (listen, asked) in
            [("0.0.0.0:8001", "127.0.0.1:8001"), ("[::]:8001", "[::1]:8001"), ("10.1.2.3:80", "10.1.2.3:80")]
        {
            let asked: SocketAddr = asked.parse().expect("an address");
            assert_eq!(reachable(listen.parse().expect("an address")), asked);
        }
    }
}
