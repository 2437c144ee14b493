//! From a name to a TCP connection, by RFC 8305 ("happy eyeballs"): addresses are dialled one after the other without
//! waiting for the earlier ones to fail, and the first connection that succeeds is used.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use postrider_domain::address::{AddressGuard, RefusedAddress};
use postrider_domain::delivery::ErrorClass;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::deadline::Deadline;
use super::failure::{Failure, is_shortage};
use crate::resolver::{Lookups, NameError};

/// How long to wait for IPv6 addresses once there are IPv4 addresses.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Delay before the next address is dialled.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Maximum addresses of a name that are dialled.
const MAX_ADDRESSES: usize = 32;

/// Dials the addresses that `lookups` return and `guard` allows.
pub(super) async fn dial(
    mut lookups: Lookups,
    port: u16,
    guard: &AddressGuard,
    deadline: Deadline,
) -> Result<TcpStream, Failure> {
    let mut candidates = Candidates::default();
    let mut trouble = Trouble::default();
    let mut dialling = FuturesUnordered::new();
    let mut next = Instant::now();
    while !(lookups.is_empty() && candidates.is_empty() && dialling.is_empty()) {
        tokio::select! {
            biased;
            Some(connected) = dialling.next() => match connected {
                Ok(stream) => return ready(stream),
                Err(error) => {
                    trouble.add(error);
                    next = Instant::now();
                }
            },
            Some(found) = lookups.next() => {
                match found {
                    Ok(addresses) => trouble.refused = candidates.add(addresses, guard).or(trouble.refused),
                    Err(error) => trouble.resolving = trouble.resolving.max(Some(error)),
                }
                if candidates.dialled == 0 {
                    let is_waited_for = candidates.v6.is_empty() && !lookups.is_empty();
                    next = Instant::now() + if is_waited_for { RESOLUTION_DELAY } else { Duration::ZERO };
                }
            },
            () = sleep_until(next), if !candidates.is_empty() => {
                dialling.extend(candidates.next().map(|address| connect(address, port)));
                next = Instant::now() + ATTEMPT_DELAY;
            },
            () = sleep_until(deadline.at) => return Err(too_late(candidates.dialled, deadline)),
        }
    }
    Err(trouble.into())
}

fn ready(stream: TcpStream) -> Result<TcpStream, Failure> {
    stream.set_nodelay(true).map_err(|error| unconnected(&error))?;
    Ok(stream)
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, Unconnected> {
    let connected = TcpStream::connect((address, port)).await;
    connected.map_err(|error| Unconnected { is_shortage: is_shortage(&error, address.is_ipv6()), error })
}

/// Why connecting to an address failed.
struct Unconnected {
    error: io::Error,
    is_shortage: bool,
}

fn unconnected(error: &io::Error) -> Failure {
    Failure::new(ErrorClass::Connect, format!("no connection could be made: {error}"))
}

fn too_late(dialled: usize, deadline: Deadline) -> Failure {
    if dialled > 0 {
        return Failure::new(ErrorClass::Connect, format!("no connection could be made within {deadline}"));
    }
    let reason = format!("the name servers did not answer within {deadline}");
    Failure::new(ErrorClass::Dns, format!("the name cannot be resolved: {reason}"))
}

/// Addresses that have not been dialled yet.
#[derive(Default)]
struct Candidates {
    v6: VecDeque<IpAddr>,
    v4: VecDeque<IpAddr>,
    dialled: usize,
}

impl Candidates {
    /// Adds the addresses that may be dialled. Returns one that may not, if there is one.
    fn add(&mut self, addresses: Vec<IpAddr>, guard: &AddressGuard) -> Option<RefusedAddress> {
        let mut refused = None;
        for address in addresses {
            let family = if address.is_ipv6() { &mut self.v6 } else { &mut self.v4 };
            match guard.check(address) {
                Ok(()) => family.push_back(address),
                Err(error) => refused = Some(error),
            }
        }
        refused
    }

    fn is_empty(&self) -> bool {
        self.dialled == MAX_ADDRESSES || (self.v6.is_empty() && self.v4.is_empty())
    }

    /// Returns the next address, alternating between families, IPv6 first.
    fn next(&mut self) -> Option<IpAddr> {
        let (first, second) = match self.dialled % 2 {
            0 => (&mut self.v6, &mut self.v4),
            _ => (&mut self.v4, &mut self.v6),
        };
        let next = first.pop_front().or_else(|| second.pop_front());
        self.dialled += usize::from(next.is_some());
        next
    }
}

/// What went wrong, reported once nothing is left to try.
#[derive(Default)]
struct Trouble {
    resolving: Option<NameError>,
    refused: Option<RefusedAddress>,
    connecting: Option<io::Error>,
    /// This machine ran out of a resource, so not every address was tried.
    shortage: Option<io::Error>,
}

impl Trouble {
    fn add(&mut self, Unconnected { error, is_shortage }: Unconnected) {
        let kind = if is_shortage { &mut self.shortage } else { &mut self.connecting };
        *kind = Some(error);
    }
}

impl From<Trouble> for Failure {
    /// Reports the failure of the furthest stage that was reached.
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble { shortage: Some(error), .. } => Self::of_sockets(error),
            Trouble { connecting: Some(error), .. } => unconnected(&error),
            Trouble { refused: Some(refused), .. } => refused.into(),
            Trouble { resolving: Some(unasked @ NameError::Unasked(_)), .. } => {
                Self::of_name_servers(unasked)
            }
            Trouble { resolving, .. } => {
                let reason = resolving.unwrap_or(NameError::NoAddress);
                Self::new(ErrorClass::Dns, format!("the name cannot be resolved: {reason}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let guard = AddressGuard::new(vec!["0.0.0.0/0".parse().expect("a network")]);
        let addresses = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().expect("an address")).collect()
        };
        let mut candidates = Candidates::default();
        let refused = candidates.add(addresses(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"]), &guard);
        assert_eq!(refused, Some(RefusedAddress("::1".parse().expect("an address"))));
        candidates.add(addresses(&["2600::1", "2600::2"]), &guard);
        let order: Vec<_> = std::iter::from_fn(|| candidates.next()).collect();
        assert_eq!(order, addresses(&["2600::1", "1.1.1.1", "2600::2", "1.1.1.2", "1.1.1.3"]));
    }

    #[tokio::test]
    async fn no_more_than_a_bounded_number_of_addresses_is_dialled() {
        let guard = AddressGuard::new(vec!["127.0.0.0/8".parse().expect("a network")]);
        let mut candidates = Candidates::default();
        let many = (0..1_000).map(|n: u16| IpAddr::from([127, 1, (n >> 8) as u8, n as u8])).collect();
        assert_eq!(candidates.add(many, &guard), None);
        while !candidates.is_empty() {
            candidates.next();
        }
        assert_eq!(candidates.dialled, MAX_ADDRESSES);
    }
}
