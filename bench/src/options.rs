//! What the command line asks for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::scenario::Scenario;
use crate::tenants::Offender;

/// Everything that can be set. Durations and counts are those of one phase.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is measured.
    pub scenario: Scenario,
    /// The installation; without one, a private one is started.
    pub given: Option<Given>,
    /// Where the receiver listens.
    pub receiver_listen: SocketAddr,
    /// How the installation reaches the receiver, where that is not the address it listens on.
    pub receiver_url: Option<Url>,
    /// Events that are posted at most.
    pub events: Option<u64>,
    /// How long events are posted.
    pub duration: Duration,
    /// How long before that nothing is measured.
    pub warm_up: Duration,
    /// Connections to the API.
    pub connections: usize,
    /// Bytes of each event's `data`.
    pub payload_bytes: usize,
    /// Endpoints that receive.
    pub endpoints: usize,
    /// Events per second of an open loop; zero: none is set.
    pub rate: u64,
    /// What `rate` saturates, in requests per second.
    pub rate_limit: u32,
    /// The share of first attempts that `f` answers 500.
    pub fail_percent: u64,
    /// Decides the payloads, and which attempts fail.
    pub seed: u64,
    /// One in this many signatures is verified.
    pub verify_every: u64,
    /// Deliveries that `grow` stores.
    pub stored: u64,
    /// Deliveries that `grow` leaves open.
    pub backlog: u64,
    /// Where `grow` makes its rows, where the installation is given.
    pub database_url: Option<String>,
    /// How long nothing may arrive before what is open counts as missing.
    pub patience: Duration,
    /// What `g` does, in this order, again and again.
    pub faults: Vec<Fault>,
    /// How long between these.
    pub fault_interval: Duration,
    /// Who is beside the victim of `tenants`, one after another.
    pub offenders: Vec<Offender>,
    /// Where private servers keep their data; without one, in a directory that is removed.
    pub data_dir: Option<PathBuf>,
    /// Show what PostgreSQL spent its time on.
    pub statements: bool,
}

impl Options {
    /// A scenario as it is where no flag says otherwise, on a private installation.
    #[must_use]
    pub fn of(scenario: Scenario) -> Self {
        let defaults = scenario.defaults();
        Self {
            scenario,
            given: None,
            receiver_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            receiver_url: None,
            events: defaults.events,
            duration: defaults.duration,
            warm_up: defaults.warm_up,
            connections: defaults.connections,
            payload_bytes: 512,
            endpoints: defaults.endpoints,
            rate: defaults.rate,
            rate_limit: 100,
            fail_percent: 20,
            seed: 1,
            verify_every: 100,
            patience: Duration::from_secs(30),
            stored: 1_000_000,
            backlog: 100_000,
            database_url: None,
            faults: vec![Fault::Deliverer, Fault::Flush, Fault::Relay, Fault::Api, Fault::All],
            fault_interval: Duration::from_secs(4),
            offenders: Offender::ALL.to_vec(),
            data_dir: None,
            statements: false,
        }
    }
}

/// An installation that runs already.
#[derive(Debug, Clone)]
pub struct Given {
    /// The root of its API.
    pub api: Url,
    /// Makes applications for the bench; absent where the API demands none, or where there is a key.
    pub admin_token: Option<String>,
    /// The application that the bench is to use, and a key of it; without, it makes its own.
    pub application: Option<(String, String)>,
    /// Where metrics are served.
    pub metrics: Vec<Url>,
    /// Processes of the installation on this machine: what they are, and their numbers.
    pub processes: Vec<(String, u32)>,
}

/// What is done to a private installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and started again.
    Api,
    /// SIGKILL, and started again.
    Relay,
    /// SIGKILL, and started again.
    Deliverer,
    /// All three, and Redis loses its memory while they are away.
    All,
    /// `FLUSHALL`.
    Flush,
    /// SIGKILL to Redis, and started again, empty.
    Redis,
    /// PostgreSQL ends as by a power cut, and is started again.
    Postgres,
}

impl Fault {
    /// All of them, as the command line names them.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("api", Self::Api),
        ("relay", Self::Relay),
        ("deliverer", Self::Deliverer),
        ("all", Self::All),
        ("flush", Self::Flush),
        ("redis", Self::Redis),
        ("postgres", Self::Postgres),
    ];

    /// As the command line names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }
}
