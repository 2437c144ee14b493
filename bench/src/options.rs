//! The options of a run, as given on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::scenario::Scenario;
use crate::tenants::Offender;

/// All options. Durations and counts apply to each phase.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario to run.
    pub scenario: Scenario,
    /// The installation to measure. If it is `None`, a private one is started.
    pub given: Option<Given>,
    /// Address on which the receiver listens.
    pub receiver_listen: SocketAddr,
    /// URL by which the installation reaches the receiver, if it differs from the listen address.
    pub receiver_url: Option<Url>,
    /// Maximum events to post.
    pub events: Option<u64>,
    /// How long events are posted.
    pub duration: Duration,
    /// How long events are posted before measuring starts.
    pub warm_up: Duration,
    /// Connections to the API.
    pub connections: usize,
    /// Size of each event's `data`, in bytes.
    pub payload_bytes: usize,
    /// Number of endpoints that receive.
    pub endpoints: usize,
    /// Events per second of an open loop; 0 if none is set.
    pub rate: u64,
    /// Rate limit of the endpoint in scenario `rate`, in requests per second.
    pub rate_limit: u32,
    /// Percentage of first attempts to which the receiver responds 500 in scenario `f`.
    pub fail_percent: u64,
    /// Determines the payloads and which attempts fail.
    pub seed: u64,
    /// The receiver verifies one in this many signatures.
    pub verify_every: u64,
    /// Closed deliveries that `grow` creates.
    pub stored: u64,
    /// Open deliveries that `grow` creates.
    pub backlog: u64,
    /// Database of a given installation, in which `grow` creates its rows.
    pub database_url: Option<String>,
    /// How long to wait without any arrival before open deliveries count as missing.
    pub patience: Duration,
    /// Faults that scenario `g` causes, in this order, repeatedly.
    pub faults: Vec<Fault>,
    /// Time between two faults.
    pub fault_interval: Duration,
    /// Offenders that scenario `tenants` runs beside the victim, one after another.
    pub offenders: Vec<Offender>,
    /// Data directory of private servers. If it is `None`, a temporary directory is used.
    pub data_dir: Option<PathBuf>,
    /// Whether to show which statements PostgreSQL spent its time on.
    pub statements: bool,
}

impl Options {
    /// Returns the default options of a scenario, on a private installation.
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

/// An installation that is already running.
#[derive(Debug, Clone)]
pub struct Given {
    /// Root URL of its API.
    pub api: Url,
    /// Token with which the bench creates applications. `None` if the API requires none, or if a key is given.
    pub admin_token: Option<String>,
    /// Id and API key of the application to use. If it is `None`, the bench creates applications.
    pub application: Option<(String, String)>,
    /// URLs of metrics.
    pub metrics: Vec<Url>,
    /// Names and process ids of the installation's processes on this machine.
    pub processes: Vec<(String, u32)>,
}

/// A fault in a private installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Kills the API with SIGKILL and starts it again.
    Api,
    /// Kills the relay with SIGKILL and starts it again.
    Relay,
    /// Kills the deliverer with SIGKILL and starts it again.
    Deliverer,
    /// Kills all three services, flushes Redis while they are down, and starts them again.
    All,
    /// Runs `FLUSHALL` in Redis.
    Flush,
    /// Kills Redis with SIGKILL and starts it again, empty.
    Redis,
    /// Stops PostgreSQL as a power cut would, and starts it again.
    Postgres,
}

impl Fault {
    /// All faults with their names on the command line.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("api", Self::Api),
        ("relay", Self::Relay),
        ("deliverer", Self::Deliverer),
        ("all", Self::All),
        ("flush", Self::Flush),
        ("redis", Self::Redis),
        ("postgres", Self::Postgres),
    ];

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }
}
