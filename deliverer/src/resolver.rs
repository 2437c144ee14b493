//! Resolves names asynchronously. Each address family is looked up on its own, because one may arrive long before the
//! other, or alone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use url::Host;

/// Timeout of one query to a name server, and the number of retries.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Upper limit on the time for which an answer is cached, whatever its TTL.
const MAX_TTL: Duration = Duration::from_secs(300);

/// Why a name has no address of a family. Ordered by how much a reason tells: if both lookups fail, the greater one is
/// reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum NameError {
    /// The name exists, but has no address.
    #[error("the name has no address")]
    NoAddress,
    /// No name server responded in time.
    #[error("the name servers do not answer")]
    Unanswered,
    /// A name server responded with an error, or another error occurred.
    #[error("{0}")]
    Failed(String),
    /// No query could be sent to any name server.
    #[error("the name servers cannot be asked: {0}")]
    Unasked(String),
    /// The name does not exist (NXDOMAIN).
    #[error("the name does not exist")]
    Unknown,
}

/// The lookups for one name, one per address family.
pub(crate) type Lookups = FuturesUnordered<BoxFuture<'static, Result<Vec<IpAddr>, NameError>>>;

/// Queries name servers and caches their answers.
#[derive(Clone)]
pub(crate) struct Resolver(TokioResolver);

impl Resolver {
    /// Creates a resolver for these name servers, or for the system's if there are none.
    ///
    /// # Errors
    /// If the system's configuration cannot be read.
    pub(crate) fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = servers.iter().copied().map(name_server).collect();
            let servers = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.positive_max_ttl = Some(MAX_TTL);
        options.negative_max_ttl = Some(Duration::from_secs(10));
        Ok(Self(builder.build()?))
    }

    /// Looks up the addresses of a host.
    pub(crate) fn look_up(&self, host: &Host<&str>) -> Lookups {
        let name = match *host {
            Host::Ipv4(address) => return [ready(Ok(vec![address.into()])).boxed()].into_iter().collect(),
            Host::Ipv6(address) => return [ready(Ok(vec![address.into()])).boxed()].into_iter().collect(),
            Host::Domain(name) => match parse(name) {
                Ok(name) => name,
                Err(error) => return [ready(Err(error)).boxed()].into_iter().collect(),
            },
        };
        [RecordType::AAAA, RecordType::A]
            .into_iter()
            .map(|family| self.clone().addresses(name.clone(), family).boxed())
            .collect()
    }

    async fn addresses(self, name: Name, family: RecordType) -> Result<Vec<IpAddr>, NameError> {
        let found = self.0.lookup(name, family).await?;
        let addresses: Vec<_> = found.answers().iter().filter_map(|record| address(&record.data)).collect();
        if addresses.is_empty() { Err(NameError::NoAddress) } else { Ok(addresses) }
    }
}

/// Parses a name label by label, without the usual checks: hosts exist whose names break the rules for host names.
fn parse(name: &str) -> Result<Name, NameError> {
    let labels = name.strip_suffix('.').unwrap_or(name).split('.').map(str::as_bytes);
    let mut parsed = Name::from_labels(labels).map_err(|error| NameError::Failed(error.to_string()))?;
    // Without a trailing full stop, the search domains of the system apply.
    parsed.set_fqdn(name.ends_with('.'));
    Ok(parsed)
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

impl From<NetError> for NameError {
    fn from(error: NetError) -> Self {
        let answered = |code: ResponseCode| {
            Self::Failed(format!("the name server answered {}", format!("{code:?}").to_uppercase()))
        };
        match error {
            NetError::Timeout => Self::Unanswered,
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::Unknown,
                ResponseCode::NoError => Self::NoAddress,
                code => answered(code),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => answered(code),
            NetError::Io(_) | NetError::NoConnections => Self::Unasked(error.to_string()),
            other => Self::Failed(format!("the name servers cannot be asked: {other}")),
        }
    }
}
