//! The scenarios by name.

use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::Serialize;

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// One connection, one endpoint.
    A1,
    /// 64 connections, one endpoint.
    A64,
    /// Fan-out to ten endpoints.
    D,
    /// Healthy endpoints beside one that never responds.
    E,
    /// A fifth of the first attempts fail.
    F,
    /// Services are killed and Redis is flushed under load.
    G,
    /// A fixed rate, even if the service cannot keep up.
    Open,
    /// One event at a time into an idle installation.
    Idle,
    /// A thousand endpoints, of which four hundred misbehave.
    Noisy,
    /// One tenant posts very many events at once; another posts a few.
    Burst,
    /// An endpoint's rate limit, under saturation.
    Rate,
    /// Half of the maximum rate for a long time.
    Soak,
    /// Many stored deliveries and a backlog.
    Grow,
    /// A few events of one tenant beside one offender after another.
    Tenants,
}

/// Defaults of a scenario for options that no flag sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults {
    pub(crate) events: Option<u64>,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) connections: usize,
    pub(crate) endpoints: usize,
    /// Events per second; 0 means as fast as responses arrive.
    pub(crate) rate: u64,
}

const CLOSED: Defaults = Defaults {
    events: None,
    duration: Duration::from_secs(30),
    warm_up: Duration::from_secs(3),
    connections: 64,
    endpoints: 1,
    rate: 0,
};

/// Connections for an open loop, so that a short slow period does not delay posts.
const OPEN_CONNECTIONS: usize = 256;

impl Scenario {
    /// Returns a one-line description.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::A1 => "1 connection, 1 endpoint: latency",
            Self::A64 => "64 connections, 1 endpoint: throughput",
            Self::D => "64 connections, every event goes to 10 endpoints",
            Self::E => {
                "100 events/s to healthy endpoints, first alone, then next to 100/s to one that never responds"
            }
            Self::F => "like a64, but 20 % of the first attempts are answered with 500",
            Self::G => "services are killed and Redis is flushed under load; only on a private installation",
            Self::Open => {
                "publishes at --rate and measures from the time at which each event was due to be \
                           sent"
            }
            Self::Idle => "one event at a time on an idle installation, until it is delivered",
            Self::Noisy => {
                "1,000 endpoints of which 100 hang, 100 drip, 100 refuse and 100 respond with 429; first \
                 without these"
            }
            Self::Burst => "one tenant publishes 100,000 events at once while another publishes a few",
            Self::Rate => "saturates an endpoint that is limited to --rate-limit requests per second",
            Self::Grow => {
                "accepts, delivers and lists with 10,000 stored deliveries, then with --stored and --backlog"
            }
            Self::Tenants => {
                "10 events/s of one tenant, alone and next to each of --only; fails if its p99 grows by 50 ms"
            }
            Self::Soak => {
                "10 minutes at half of the maximum rate, which is measured first unless --rate is \
                           set"
            }
        }
    }

    pub(crate) fn defaults(self) -> Defaults {
        let seconds = Duration::from_secs;
        match self {
            Self::A1 => Defaults { duration: seconds(20), connections: 1, ..CLOSED },
            Self::A64 => CLOSED,
            Self::D => Defaults { endpoints: 10, ..CLOSED },
            Self::F => Defaults { duration: seconds(60), ..CLOSED },
            Self::E => Defaults {
                duration: seconds(60),
                endpoints: 10,
                rate: 100,
                connections: OPEN_CONNECTIONS,
                ..CLOSED
            },
            Self::G => {
                Defaults { warm_up: Duration::ZERO, rate: 200, connections: OPEN_CONNECTIONS, ..CLOSED }
            }
            Self::Open => Defaults { rate: 1_000, connections: OPEN_CONNECTIONS, ..CLOSED },
            Self::Idle => Defaults { events: Some(200), duration: seconds(120), connections: 1, ..CLOSED },
            Self::Noisy => Defaults {
                duration: seconds(60),
                endpoints: 1_000,
                rate: 1_000,
                connections: OPEN_CONNECTIONS,
                ..CLOSED
            },
            Self::Burst => Defaults {
                events: Some(100_000),
                duration: seconds(30),
                warm_up: seconds(1),
                connections: 4,
                rate: 10,
                ..CLOSED
            },
            Self::Rate => {
                Defaults { duration: seconds(40), warm_up: Duration::ZERO, connections: 8, ..CLOSED }
            }
            Self::Grow => Defaults { endpoints: 10, rate: 500, connections: OPEN_CONNECTIONS, ..CLOSED },
            Self::Tenants => {
                Defaults { duration: seconds(25), rate: 10, connections: OPEN_CONNECTIONS, ..CLOSED }
            }
            Self::Soak => Defaults { duration: seconds(600), connections: OPEN_CONNECTIONS, ..CLOSED },
        }
    }
}

impl ValueEnum for Scenario {
    fn value_variants<'a>() -> &'a [Self] {
        use Scenario::{A1, A64, Burst, D, E, F, G, Grow, Idle, Noisy, Open, Rate, Soak, Tenants};
        &[A1, A64, D, E, F, G, Open, Idle, Noisy, Burst, Rate, Soak, Grow, Tenants]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(format!("{self:?}").to_ascii_lowercase()).help(self.about()))
    }
}
