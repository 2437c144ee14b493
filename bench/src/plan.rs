//! Turns a scenario into a plan: who posts what, to which endpoints, and in which order. Pure functions.

use std::time::Duration;

use crate::grow::Growth;
use crate::options::Options;
use crate::scenario::Scenario;

/// How the receiver of an endpoint treats webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Responds 2xx.
    Take,
    /// Responds 500 to this percentage of first attempts.
    FailFirst(u64),
    /// Never responds.
    Hang,
    /// Responds 200 and then sends its body byte by byte.
    Drip,
    /// Refuses connections.
    Refuse,
    /// Responds 429.
    TooMany,
}

impl Behaviour {
    /// Returns true if every event should arrive in the end.
    pub(crate) fn takes(self) -> bool {
        matches!(self, Self::Take | Self::FailFirst(_))
    }
}

/// Events of one kind: their tenant and the endpoints that receive them.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    /// Lanes with the same number share an application.
    pub(crate) application: usize,
    pub(crate) behaviour: Behaviour,
    pub(crate) endpoints: usize,
    /// Whether each event goes to all endpoints or to one in turn.
    pub(crate) spread: Spread,
    /// Rate limit of each endpoint, in requests per second; `None` means unlimited.
    pub(crate) rate_limit: Option<u32>,
}

/// Which endpoints of a lane receive an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    All,
    InTurn,
}

impl Lane {
    /// Returns the number of deliveries per event.
    pub(crate) fn fan_out(&self) -> usize {
        if self.spread == Spread::All { self.endpoints } else { 1 }
    }
}

/// How events are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Closed loop: each connection posts when it has the response to its last event.
    Closed { connections: usize, events: Option<u64> },
    /// Open loop: events are posted at a fixed rate, whether or not responses arrive.
    Open { rate: u64, connections: usize, events: Option<u64> },
    /// One event at a time: each is posted a pause after the previous one has arrived.
    OneByOne { events: u64 },
    /// All events at once after the warm-up, in batch requests.
    Batches { events: u64, connections: usize },
}

impl Load {
    /// Returns the maximum number of events, or `None` if only time limits it.
    pub(crate) fn events(self) -> Option<u64> {
        match self {
            Self::Closed { events, .. } | Self::Open { events, .. } => events,
            Self::OneByOne { events } | Self::Batches { events, .. } => Some(events),
        }
    }
}

/// A part of a scenario that is measured on its own.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    /// Pairs of a lane's number and the load that posts on it.
    pub(crate) loads: Vec<(usize, Load)>,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    pub(crate) with_faults: bool,
    /// Rows to create before the phase.
    pub(crate) growth: Option<Growth>,
}

/// All lanes and phases of a scenario.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) phases: Vec<Phase>,
}

/// An installation with very little stored.
const YOUNG: Growth = Growth { stored: 10_000, backlog: 1_000 };
/// How long the maximum rate is measured before a soak.
const CALIBRATION: Duration = Duration::from_secs(20);

impl Plan {
    pub(crate) fn of(options: &Options) -> Self {
        match options.scenario {
            Scenario::A1 | Scenario::A64 | Scenario::D => Self::closed(options, Behaviour::Take, None),
            Scenario::F => Self::closed(options, Behaviour::FailFirst(options.fail_percent), None),
            Scenario::Rate => Self::rate(options),
            Scenario::G => {
                let mut plan = Self::open(options);
                plan.phases[0].with_faults = true;
                plan
            }
            Scenario::Open => Self::open(options),
            Scenario::Idle => {
                let load = Load::OneByOne { events: options.events.unwrap_or(1) };
                Self::single(options, lane("idle", Behaviour::Take, options.endpoints), load)
            }
            Scenario::E => Self::neighbour(options),
            Scenario::Noisy => Self::noisy(options),
            Scenario::Burst => Self::burst(options),
            Scenario::Soak => Self::soak(options),
            Scenario::Grow => Self::grow(options),
            Scenario::Tenants => {
                let victim = lane("victim", Behaviour::Take, options.endpoints);
                let load = open(options, options.rate);
                Self { lanes: vec![victim], phases: vec![phase(options, "alone", vec![(0, load)])] }
            }
        }
    }

    fn single(options: &Options, lane: Lane, load: Load) -> Self {
        Self { lanes: vec![lane], phases: vec![phase(options, "load", vec![(0, load)])] }
    }

    fn closed(options: &Options, behaviour: Behaviour, rate_limit: Option<u32>) -> Self {
        let load = Load::Closed { connections: options.connections, events: options.events };
        let lane = Lane { rate_limit, ..lane("endpoints", behaviour, options.endpoints) };
        Self::single(options, lane, load)
    }

    fn open(options: &Options) -> Self {
        let load = open(options, options.rate);
        Self::single(options, lane("endpoints", Behaviour::Take, options.endpoints), load)
    }

    /// Posts more than the rate limit allows within the time, so that something always waits.
    fn rate(options: &Options) -> Self {
        let let_through = options.duration.as_secs() * u64::from(options.rate_limit);
        let events = options.events.unwrap_or(let_through + let_through / 10);
        let load = Load::Closed { connections: options.connections, events: Some(events) };
        let lane = Lane {
            rate_limit: Some(options.rate_limit),
            ..lane("limited", Behaviour::Take, options.endpoints)
        };
        Self::single(options, lane, load)
    }

    fn neighbour(options: &Options) -> Self {
        let healthy = Lane { spread: Spread::InTurn, ..lane("healthy", Behaviour::Take, options.endpoints) };
        let hanging = lane("hanging", Behaviour::Hang, 1);
        let load = open(options, options.rate);
        Self {
            lanes: vec![healthy, hanging],
            phases: vec![
                phase(options, "alone", vec![(0, load)]),
                phase(options, "beside one that hangs", vec![(0, load), (1, load)]),
            ],
        }
    }

    /// Ten per cent of the endpoints for each of four kinds of misbehaviour. The rest is healthy and gets its share of
    /// the rate in both phases.
    fn noisy(options: &Options) -> Self {
        let tenth = (options.endpoints / 10).max(1);
        let well = options.endpoints.saturating_sub(4 * tenth).max(1);
        let in_turn =
            |name, behaviour, endpoints| Lane { spread: Spread::InTurn, ..lane(name, behaviour, endpoints) };
        let lanes = vec![
            in_turn("healthy", Behaviour::Take, well),
            in_turn("hanging", Behaviour::Hang, tenth),
            in_turn("dripping", Behaviour::Drip, tenth),
            in_turn("refusing", Behaviour::Refuse, tenth),
            in_turn("too many", Behaviour::TooMany, tenth),
        ];
        let total: usize = lanes.iter().map(|lane| lane.endpoints).sum();
        let share = |lane: &Lane| (options.rate * lane.endpoints as u64 / total as u64).max(1);
        let loads: Vec<_> =
            lanes.iter().enumerate().map(|(index, lane)| (index, open(options, share(lane)))).collect();
        let phases = vec![
            phase(options, "healthy alone", loads[..1].to_vec()),
            phase(options, "beside the others", loads),
        ];
        Self { lanes, phases }
    }

    fn burst(options: &Options) -> Self {
        let events = options.events.unwrap_or(1);
        let big = lane("big tenant", Behaviour::Take, options.endpoints);
        let small = Lane { application: 1, ..lane("small tenant", Behaviour::Take, 1) };
        let burst = Load::Batches { events, connections: options.connections };
        let few = Load::Open { rate: options.rate, connections: options.connections, events: None };
        Self { lanes: vec![big, small], phases: vec![phase(options, "burst", vec![(0, burst), (1, few)])] }
    }

    /// If no rate is set, the rate of the second phase is not known yet: see [`Plan::set_rate`].
    fn soak(options: &Options) -> Self {
        let lane = lane("endpoints", Behaviour::Take, options.endpoints);
        let mut phases = Vec::new();
        if options.rate == 0 {
            let load = Load::Closed { connections: 64, events: None };
            let maximum = phase(options, "the maximum", vec![(0, load)]);
            phases.push(Phase { duration: CALIBRATION, ..maximum });
        }
        phases.push(phase(options, "soak", vec![(0, open(options, options.rate))]));
        Self { lanes: vec![lane], phases }
    }

    /// Puts the same load on a small and a large installation. The endpoint with the backlog never responds, so that
    /// the backlog stays.
    fn grow(options: &Options) -> Self {
        let Options { stored, backlog, .. } = *options;
        let receiving =
            Lane { spread: Spread::InTurn, ..lane("endpoints", Behaviour::Take, options.endpoints) };
        let with = |name, growth| Phase {
            growth: Some(growth),
            ..phase(options, name, vec![(0, open(options, options.rate))])
        };
        let phases = vec![with("young", YOUNG), with("grown", Growth { stored, backlog })];
        Self { lanes: vec![receiving, lane("backlog", Behaviour::Hang, 1)], phases }
    }

    /// Sets the rate of every open loop that has none.
    pub(crate) fn set_rate(&mut self, measured: u64) {
        for (_, load) in self.phases.iter_mut().flat_map(|phase| &mut phase.loads) {
            if let Load::Open { rate: rate @ 0, .. } = load {
                *rate = measured.max(1);
            }
        }
    }

    /// Returns the number of applications that the plan needs.
    pub(crate) fn applications(&self) -> usize {
        self.lanes.iter().map(|lane| lane.application + 1).max().unwrap_or(1)
    }
}

fn lane(name: &'static str, behaviour: Behaviour, endpoints: usize) -> Lane {
    Lane { name, application: 0, behaviour, endpoints, spread: Spread::All, rate_limit: None }
}

fn open(options: &Options, rate: u64) -> Load {
    Load::Open { rate, connections: options.connections, events: options.events }
}

fn phase(options: &Options, name: &'static str, loads: Vec<(usize, Load)>) -> Phase {
    let Options { warm_up, duration, .. } = *options;
    Phase { name, loads, warm_up, duration, with_faults: false, growth: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(scenario: Scenario) -> Plan {
        Plan::of(&Options::of(scenario))
    }

    #[test]
    fn the_noisy_are_a_tenth_each_and_the_healthy_have_the_same_load_without_them() {
        let plan = plan(Scenario::Noisy);
        let counts: Vec<_> = plan.lanes.iter().map(|lane| lane.endpoints).collect();
        assert_eq!(counts, [600, 100, 100, 100, 100]);
        assert!(plan.lanes.iter().all(|lane| lane.fan_out() == 1));
        let [alone, beside] = &plan.phases[..] else { panic!("two phases") };
        assert_eq!(alone.loads, beside.loads[..1]);
        assert!(matches!(alone.loads[0], (0, Load::Open { rate: 600, .. })));
    }

    #[test]
    fn a_limited_endpoint_never_runs_dry_before_the_time_is_over() {
        let options = Options::of(Scenario::Rate);
        let Load::Closed { events: Some(events), .. } = Plan::of(&options).phases[0].loads[0].1 else {
            panic!("a number of events");
        };
        assert!(events > options.duration.as_secs() * u64::from(options.rate_limit));
    }

    #[test]
    fn a_soak_takes_half_of_what_was_measured_unless_it_is_told() {
        let mut measured = plan(Scenario::Soak);
        assert_eq!(measured.phases.len(), 2);
        measured.set_rate(1_234);
        assert!(matches!(measured.phases[1].loads[0].1, Load::Open { rate: 1_234, .. }));
        let mut told = Plan::of(&Options { rate: 50, ..Options::of(Scenario::Soak) });
        told.set_rate(1_234);
        assert_eq!(told.phases.len(), 1);
        assert!(matches!(told.phases[0].loads[0].1, Load::Open { rate: 50, .. }));
    }

    #[test]
    fn every_event_goes_to_every_endpoint_of_a_fan_out_and_tenants_have_applications_of_their_own() {
        assert_eq!(plan(Scenario::D).lanes[0].fan_out(), 10);
        assert_eq!(plan(Scenario::Burst).applications(), 2);
        assert_eq!(plan(Scenario::E).applications(), 1);
    }
}
