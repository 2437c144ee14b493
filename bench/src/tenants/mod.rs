//! Scenario `tenants`: a victim posts a few events per second beside one offender after another, each in an
//! installation of its own.
//!
//! An offender is another tenant, or a client without a key, that takes as much as it can get. It is limited in
//! requests and in time, and counts the responses that it gets.

mod asking;
mod holder;
mod sending;
mod sockets;
mod tenant;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use http::StatusCode;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::installation::Installation;
use holder::Manner;
use tenant::Tenant;

pub(crate) use verdict::{failures, write};

/// How long an offender may prepare, for example create its endpoints.
const PREPARATION: Duration = Duration::from_secs(60);
/// Almost as long as an endpoint may make a deliverer wait.
const HOLD: Duration = Duration::from_secs(55);
/// The default maximum number of endpoints of a tenant.
const MOST_ENDPOINTS: usize = 1_000;

/// The tenant or client beside the victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offender {
    /// Endpoints that respond quickly at first, then take almost a minute for each webhook.
    SlowSuccesses,
    /// Small events that become half a megabyte when they are rendered.
    LargeBodies,
    /// One event, replayed repeatedly to all endpoints.
    Replays,
    /// Batches in which every event goes to all endpoints.
    FanOut,
    /// Endpoints that fail and are retried at once.
    RetryStorm,
    /// Disabled endpoints with a backlog.
    ParkedBacklog,
    /// A schema that finds thousands of violations in each element.
    SchemaRequired,
    /// A schema that tries hundreds of alternatives for each element.
    SchemaOneOf,
    /// Filters that look deep into each event, on every endpoint.
    CostlyFilters,
    /// Lists, read on many connections.
    Reads,
    /// Events posted with very many keys of one application.
    ManyKeys,
    /// Large bodies with an unknown key.
    UnauthenticatedBodies,
    /// Requests whose head never ends.
    DrippingHeads,
    /// Idle connections.
    IdleConnections,
    /// Failing endpoints, each subscribed to the dead letters of all.
    DeadLetters,
    /// Endpoints that send 103 responses forever.
    InformationalResponses,
    /// A schema whose pattern has thousands of states.
    SchemaPattern,
    /// Long event types on every endpoint, none of which is ever posted.
    EventTypes,
    /// Lists that are requested and never read.
    UnreadResponses,
    /// Requests whose body never arrives.
    UnsentBodies,
    /// Requests whose head is large and never ends.
    LargeHeads,
}

impl Offender {
    /// All offenders, in the order in which they run.
    pub const ALL: [Self; 21] = [
        Self::SlowSuccesses,
        Self::LargeBodies,
        Self::Replays,
        Self::FanOut,
        Self::RetryStorm,
        Self::ParkedBacklog,
        Self::SchemaRequired,
        Self::SchemaOneOf,
        Self::CostlyFilters,
        Self::Reads,
        Self::ManyKeys,
        Self::UnauthenticatedBodies,
        Self::DrippingHeads,
        Self::IdleConnections,
        Self::DeadLetters,
        Self::InformationalResponses,
        Self::SchemaPattern,
        Self::EventTypes,
        Self::UnreadResponses,
        Self::UnsentBodies,
        Self::LargeHeads,
    ];

    /// Returns the name in `--only` and in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowSuccesses => "slow-successes",
            Self::LargeBodies => "large-bodies",
            Self::Replays => "replays",
            Self::FanOut => "fan-out",
            Self::RetryStorm => "retry-storm",
            Self::ParkedBacklog => "parked-backlog",
            Self::SchemaRequired => "schema-required",
            Self::SchemaOneOf => "schema-one-of",
            Self::CostlyFilters => "costly-filters",
            Self::Reads => "reads",
            Self::ManyKeys => "many-keys",
            Self::UnauthenticatedBodies => "unauthenticated-bodies",
            Self::DrippingHeads => "dripping-heads",
            Self::IdleConnections => "idle-connections",
            Self::DeadLetters => "dead-letters",
            Self::InformationalResponses => "informational-responses",
            Self::SchemaPattern => "schema-pattern",
            Self::EventTypes => "event-types",
            Self::UnreadResponses => "unread-responses",
            Self::UnsentBodies => "unsent-bodies",
            Self::LargeHeads => "large-heads",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::SlowSuccesses => "2 endpoints accept 1,100 webhooks at once, then take 55 s for each",
            Self::LargeBodies => "3 kB of numbers that render to 512 KiB, 70 times to 2 endpoints that hold",
            Self::Replays => "16 connections replay an event to 1,000 endpoints",
            Self::FanOut => "batches of 100 events to 1,000 endpoints",
            Self::RetryStorm => "1,000 endpoints respond 500 and are retried every second",
            Self::ParkedBacklog => "25,000 deliveries parked at 1,000 disabled endpoints, and more coming",
            Self::SchemaRequired => "407 bytes against a schema that requires 6,500 names of each element",
            Self::SchemaOneOf => "1.2 kB against a schema of 400 alternatives for each element",
            Self::CostlyFilters => {
                "9.8 kB past up to 1,000 filters of ten paths, 13 keys deep, into an array"
            }
            Self::Reads => "32 connections read the largest page of events",
            Self::ManyKeys => "64 connections post under 1,000 keys",
            Self::UnauthenticatedBodies => "300 connections send nearly 4 MiB with an unknown key",
            Self::DrippingHeads => {
                "3,000 requests, or half of the descriptors, whose head gets a byte in 20 s"
            }
            Self::IdleConnections => "2,000 connections on which nothing is asked any more",
            Self::DeadLetters => {
                "1,000 endpoints respond 404 to an event, and subscribe to each other's dead letters"
            }
            Self::InformationalResponses => "2 endpoints respond 103 without end",
            Self::SchemaPattern => "48 kB against a pattern of 4,000 states",
            Self::EventTypes => "batches of 1,000 events past 1,000 endpoints of 100 long event types",
            Self::UnreadResponses => "160 connections ask for the largest page and never read it",
            Self::UnsentBodies => "8,000 requests, or half of the descriptors, whose body does not come",
            Self::LargeHeads => "1,000 heads of 400 kB that do not end",
        }
    }

    /// Returns how its endpoints receive webhooks.
    fn manner(self) -> Manner {
        match self {
            Self::SlowSuccesses => Manner::Hold { after: 1_100, time: HOLD },
            Self::LargeBodies => Manner::Hold { after: 220, time: HOLD },
            Self::RetryStorm => Manner::Fail(StatusCode::INTERNAL_SERVER_ERROR),
            Self::DeadLetters => Manner::Fail(StatusCode::NOT_FOUND),
            Self::InformationalResponses => Manner::Inform,
            _ => Manner::Accept,
        }
    }

    /// Prepares, signals that it is ready, and then attacks until it is stopped.
    async fn attack(self, tenant: &Tenant) -> anyhow::Result<()> {
        match self {
            Self::SlowSuccesses => sending::slow_successes(tenant).await,
            Self::LargeBodies => sending::large_bodies(tenant).await,
            Self::Replays => sending::replays(tenant).await,
            Self::FanOut => sending::fan_out(tenant).await,
            Self::RetryStorm => sending::retry_storm(tenant).await,
            Self::ParkedBacklog => sending::parked_backlog(tenant).await,
            Self::SchemaRequired => asking::schema_required(tenant).await,
            Self::SchemaOneOf => asking::schema_one_of(tenant).await,
            Self::CostlyFilters => asking::costly_filters(tenant).await,
            Self::Reads => asking::reads(tenant).await,
            Self::ManyKeys => asking::many_keys(tenant).await,
            Self::UnauthenticatedBodies => sockets::unauthenticated_bodies(tenant).await,
            Self::DrippingHeads => sockets::dripping_heads(tenant).await,
            Self::IdleConnections => sockets::idle_connections(tenant).await,
            Self::DeadLetters => sending::dead_letters(tenant).await,
            Self::InformationalResponses => sending::informational_responses(tenant).await,
            Self::SchemaPattern => asking::schema_pattern(tenant).await,
            Self::EventTypes => asking::event_types(tenant).await,
            Self::UnreadResponses => sockets::unread_responses(tenant).await,
            Self::UnsentBodies => sockets::unsent_bodies(tenant).await,
            Self::LargeHeads => sockets::large_heads(tenant).await,
        }
    }
}

impl ValueEnum for Offender {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.about()))
    }
}

/// An offender that is running.
pub(crate) struct Attack {
    tenant: Tenant,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Attack {
    /// Starts an offender and waits until it is prepared. It then runs until `stop`.
    pub(crate) async fn begin(
        offender: Offender,
        installation: &Installation,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let tenant = Tenant::new(installation, offender.manner(), stop.clone()).await?;
        let attacker = tenant.clone();
        // The offender has a thread of its own, so that it does not delay measurements of the victim.
        let task = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let attack = stop.run_until_cancelled(offender.attack(&attacker));
            runtime.block_on(attack).unwrap_or(Ok(()))
        });
        tokio::select! {
            () = tenant.ready.cancelled() => {}
            () = async { while !task.is_finished() { tokio::time::sleep(Duration::from_millis(20)).await } } => {}
            () = tokio::time::sleep(PREPARATION) => tenant.note("still preparing when the measurement began"),
        }
        Ok(Self { tenant, task })
    }

    /// Returns the number of responses of each kind. Call it after the offender has been stopped.
    pub(crate) async fn end(self) -> BTreeMap<String, u64> {
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.tenant.note(&format!("ended early: {error:#}")),
            Err(error) => self.tenant.note(&format!("ended early: {error}")),
        }
        self.tenant.tally()
    }
}
