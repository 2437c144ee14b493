//! The HTTP client that all webhooks are sent with.

use std::sync::Arc;
use std::time::Duration;

use postrider_shared::config::DelivererConfig;
use reqwest::{Certificate, Client, Proxy, redirect};

use crate::resolver::GuardedResolver;

/// Common servers close a connection that has been idle for five seconds; one that is used at that moment
/// would fail for nothing.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Part of an endpoint's timeout, so that an address that does not answer leaves time for the next one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Builds the client: no redirects, no retries of its own, no proxy but the configured one, and no
/// connection to an address that the guard refuses.
pub(crate) fn build(config: &DelivererConfig) -> Result<Client, String> {
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .http1_only()
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(256);
    if let Some(url) = &config.egress_proxy {
        let proxy = Proxy::all(url.clone())
            .map_err(|error| format!("POSTRIDER_EGRESS_PROXY (--egress-proxy): {error}"))?;
        // Only the proxy's own name is resolved here, and the operator has chosen it.
        builder = builder.proxy(proxy);
    } else {
        builder = builder.dns_resolver(Arc::new(GuardedResolver::new(config)?));
    }
    if let Some(path) = &config.extra_ca_file {
        let unreadable = |error: &dyn std::fmt::Display| {
            format!("POSTRIDER_EXTRA_CA_FILE: cannot read {}: {error}", path.display())
        };
        let pem = std::fs::read(path).map_err(|error| unreadable(&error))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(&error))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| {
        format!("the HTTP client cannot be built; are the system's CA certificates installed? {error:?}")
    })
}
