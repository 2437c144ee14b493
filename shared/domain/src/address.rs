//! The addresses that a webhook may be sent to: the guard against server-side request forgery.
//!
//! The lists follow the IANA special-purpose address registries (RFC 6890). The guard checks the address that is
//! actually dialled, so that a name cannot be rebound between the check and the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 networks that contain no public servers, and the metadata addresses of clouds.
const REFUSED_V4: [&str; 19] = [
    "0.0.0.0/8",        // this host
    "10.0.0.0/8",       // private
    "100.64.0.0/10",    // carrier-grade NAT
    "127.0.0.0/8",      // loopback
    "168.63.129.16/32", // Azure's host
    "169.254.0.0/16",   // link-local, cloud metadata
    "172.16.0.0/12",    // private
    "192.0.0.0/24",     // protocol assignments
    "192.0.2.0/24",     // documentation
    "192.31.196.0/24",  // AS112
    "192.52.193.0/24",  // AMT
    "192.88.99.0/24",   // 6to4 relays
    "192.168.0.0/16",   // private
    "192.175.48.0/24",  // AS112
    "198.18.0.0/15",    // benchmarking
    "198.51.100.0/24",  // documentation
    "203.0.113.0/24",   // documentation
    "224.0.0.0/4",      // multicast
    "240.0.0.0/4",      // reserved, broadcast
];

/// The only IPv6 network that contains public servers. Everything outside it is refused.
const GLOBAL_V6: &str = "2000::/3";

/// The parts of [`GLOBAL_V6`] that are refused.
const REFUSED_V6: [&str; 4] = [
    "2001::/23",     // protocol assignments, Teredo
    "2001:db8::/32", // documentation
    "2002::/16",     // 6to4
    "3fff::/20",     // documentation
];

/// IPv6 networks whose addresses contain an IPv4 address in their last 32 bits. They are judged as that IPv4 address.
const EMBEDDED_V4: [&str; 2] = ["::ffff:0:0/96", "64:ff9b::/96"];

static V4: LazyLock<Vec<Ipv4Net>> = LazyLock::new(|| networks(&REFUSED_V4));
static V6: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| networks(&REFUSED_V6));
static V6_GLOBAL: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| networks(&[GLOBAL_V6]));
static V6_EMBEDDED: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| networks(&EMBEDDED_V4));

fn networks<N: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<N> {
    texts.iter().map(|text| text.parse().expect("the tables above contain valid networks")).collect()
}

/// An address that webhooks are not sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a public address")]
pub struct RefusedAddress(pub IpAddr);

/// Decides which addresses webhooks may be sent to: public addresses, and those in allowed networks.
#[derive(Debug, Clone, Default)]
pub struct AddressGuard {
    allowed: Vec<IpNet>,
}

impl AddressGuard {
    /// Creates a guard that also allows the networks in `allowed`, even if they are not public.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Accepts a public or allowed address.
    ///
    /// # Errors
    /// [`RefusedAddress`] for any other address.
    pub fn check(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        let meant = unmap(address);
        let is_allowed =
            self.allowed.iter().any(|network| network.contains(&address) || network.contains(&meant));
        if is_allowed || is_public(meant) { Ok(()) } else { Err(RefusedAddress(address)) }
    }

    /// Checks the host of a URL if it is an IP literal. A name passes, because its addresses are checked once it is
    /// resolved.
    ///
    /// # Errors
    /// [`RefusedAddress`] if the host is a literal that [`check`](Self::check) refuses.
    pub fn check_host(&self, url: &url::Url) -> Result<(), RefusedAddress> {
        match url.host() {
            Some(url::Host::Ipv4(address)) => self.check(address.into()),
            Some(url::Host::Ipv6(address)) => self.check(address.into()),
            Some(url::Host::Domain(_)) | None => Ok(()),
        }
    }
}

/// Returns the IPv4 address that an IPv6 address embeds, or the address itself if it embeds none.
fn unmap(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if V6_EMBEDDED.iter().any(|network| network.contains(&v6)) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        other => other,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !V4.iter().any(|network| network.contains(&v4)),
        IpAddr::V6(v6) => is_public_v6(&v6),
    }
}

fn is_public_v6(address: &Ipv6Addr) -> bool {
    V6_GLOBAL.iter().any(|network| network.contains(address))
        && !V6.iter().any(|network| network.contains(address))
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
