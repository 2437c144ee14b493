//! Resolves names, asynchronously and with a deadline, and lets only those addresses through that the
//! guard passes: what it returns is what is dialled, so that a name cannot be rebound in between.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use postrider_shared::address::{AddressGuard, RefusedAddress};
use postrider_shared::config::DelivererConfig;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// How long one question to a name server may take, and how often it is asked.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;

/// However long a name server says that an answer is good.
const MAX_TTL: Duration = Duration::from_secs(300);

/// The name could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("the name cannot be resolved: {0}")]
pub(crate) struct NameError(String);

/// A resolver behind the guard.
#[derive(Clone)]
pub(crate) struct GuardedResolver {
    resolver: TokioResolver,
    guard: AddressGuard,
}

impl GuardedResolver {
    /// Asks the configured name servers, or the system's.
    ///
    /// # Errors
    /// With a sentence, when the system's configuration cannot be read.
    pub(crate) fn new(config: &DelivererConfig) -> Result<Self, String> {
        let unusable = |error: &dyn std::fmt::Display| {
            format!("the system's name servers cannot be read, set POSTRIDER_DNS_SERVERS: {error}")
        };
        let mut builder = if config.dns_servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| unusable(&error))?
        } else {
            let servers = config.dns_servers.iter().copied().map(name_server).collect();
            let servers = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.positive_max_ttl = Some(MAX_TTL);
        options.negative_max_ttl = Some(Duration::from_secs(10));
        let resolver = builder.build().map_err(|error| unusable(&error))?;
        Ok(Self { resolver, guard: config.guard.clone() })
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found = this.resolver.lookup_ip(name.as_str()).await;
            let found = found.map_err(|error| NameError(error.to_string()))?;
            let mut refused: Option<RefusedAddress> = None;
            let mut passed = Vec::new();
            for address in found.iter() {
                match this.guard.check(address) {
                    Ok(()) => passed.push(SocketAddr::new(address, 0)),
                    Err(error) => refused = Some(error),
                }
            }
            match (passed.is_empty(), refused) {
                (true, Some(error)) => Err(error.into()),
                (true, None) => Err(NameError("it has no address".to_owned()).into()),
                (false, _) => Ok(Box::new(passed.into_iter()) as Addrs),
            }
        })
    }
}
