//! Runs one phase: warm-up, load, and the wait for open deliveries.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::connection::Target;
use crate::faults::{self, Suffered};
use crate::fixture::{Fixture, event_type};
use crate::grow::{self, Growth};
use crate::installation::Installation;
use crate::ledger::{Ledger, Nanos};
use crate::load;
use crate::options::Options;
use crate::payload::Template;
use crate::plan::{Load, Phase, Plan};
use crate::private::Private;
use crate::producer::{Producer, Troubles};
use crate::reader::{self, ListReport};
use crate::receiver::{Findings, Receiver};
use crate::roster::Usage;
use crate::sampler::{Sample, Sampler};
use crate::statements::{Statement, Statements};

/// How long to wait for responses after Ctrl-C.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Interval between checks whether everything has arrived.
const POLL: Duration = Duration::from_millis(5);
/// The same while the counts agree but a delivery is missing nevertheless.
const SLOW_POLL: Duration = Duration::from_millis(200);

/// What every phase of a run uses.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) installation: &'a mut Installation,
    pub(crate) fixture: &'a Fixture,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) receiver: &'a Receiver,
    pub(crate) statements: Option<Statements>,
    pub(crate) shutdown: CancellationToken,
}

/// The measurements of a phase.
pub(crate) struct Measured {
    /// Events that were posted, including the warm-up.
    pub(crate) all: Range<u64>,
    /// Events that count.
    pub(crate) counted: Range<u64>,
    /// When counting began, and when posting ended.
    pub(crate) begun: Nanos,
    pub(crate) produced: Nanos,
    pub(crate) before: Vec<Usage>,
    pub(crate) after: Vec<Usage>,
    pub(crate) statements: Option<Vec<Statement>>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) findings: Findings,
    pub(crate) troubles: Arc<Troubles>,
    pub(crate) suffered: Vec<Suffered>,
    pub(crate) lists: Vec<ListReport>,
    pub(crate) is_interrupted: bool,
}

/// The state when counting begins.
struct Mark {
    at: Nanos,
    number: u64,
    usage: Vec<Usage>,
}

impl Bench<'_> {
    /// Runs a phase. Cancels `stop` when posting has ended.
    pub(crate) async fn measure(
        &mut self,
        plan: &Plan,
        phase: &Phase,
        stop: CancellationToken,
    ) -> anyhow::Result<Measured> {
        let give_up = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        let troubles = Arc::new(Troubles::default());
        let first = self.ledger.next();
        let samples = Arc::new(Mutex::new(Vec::new()));
        let mut background = JoinSet::new();
        background.spawn(self.sampler(phase).run(samples.clone()));
        let reading = self.reading(phase, &stop);

        if let Some(statements) = &self.statements {
            statements.reset().await?;
        }
        let mut mark = self.mark();
        let mut loads = JoinSet::new();
        for (lane, load) in &phase.loads {
            let producer = self.producer(plan, *lane, *load, &troubles, &stop, &give_up)?;
            loads.spawn(load::run(Arc::new(producer), *load, phase.warm_up));
        }
        let suffered = self.post(phase, &mut loads, &mut mark, &stop).await?;
        stop.cancel();
        let produced = self.ledger.now();
        self.finish(loads, &give_up).await;
        self.drain(plan, first).await;
        let lists = match reading {
            Some(reading) => reading.await?,
            None => Vec::new(),
        };
        let after = self.installation.roster.usage();
        self.installation.roster.look();
        background.shutdown().await;
        let statements = match &self.statements {
            Some(statements) => Some(statements.top().await?),
            None => None,
        };
        let samples = std::mem::take(&mut *samples.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Measured {
            all: first..self.ledger.next(),
            counted: mark.number..self.ledger.next(),
            begun: mark.at,
            produced,
            before: mark.usage,
            after,
            statements,
            samples,
            findings: self.receiver.findings(),
            troubles,
            suffered,
            lists,
            is_interrupted: self.shutdown.is_cancelled(),
        })
    }

    /// Creates the rows that a phase needs.
    pub(crate) async fn grow(&self, growth: Growth, phase: usize) -> anyhow::Result<()> {
        let private = self.installation.private.as_ref().map(Private::database_url);
        let Some(database_url) = private.or(self.options.database_url.as_deref()) else { return Ok(()) };
        let mark = format!("stock-{}-{phase}", self.fixture.run);
        grow::grow(database_url, self.options, self.fixture, growth, &mark, &self.shutdown).await
    }

    /// Lets the loads run until everything is posted, the time is over, or the run is interrupted.
    async fn post(
        &mut self,
        phase: &Phase,
        loads: &mut JoinSet<()>,
        mark: &mut Mark,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<Suffered>> {
        let shutdown = self.shutdown.clone();
        let all_posted = async { while loads.join_next().await.is_some() {} };
        tokio::pin!(all_posted);
        if !phase.warm_up.is_zero() {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(Vec::new()),
                // If a load ends before its warm-up does, all of it counts.
                () = &mut all_posted => return Ok(Vec::new()),
                () = sleep(phase.warm_up) => *mark = self.mark(),
            }
        }
        let producing = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = &mut all_posted => {}
                () = sleep(phase.duration) => {}
            }
            stop.cancel();
            Ok(())
        };
        let suffering = async {
            match &mut self.installation.private {
                Some(private) if phase.with_faults => {
                    faults::inflict(private, self.options, &self.ledger, stop).await
                }
                _ => Ok(Vec::new()),
            }
        };
        let ((), suffered) = tokio::try_join!(producing, suffering)?;
        Ok(suffered)
    }

    /// Waits for the responses to all events: without a response, it is unknown whether an event should arrive.
    async fn finish(&self, mut loads: JoinSet<()>, give_up: &CancellationToken) {
        let patience = async {
            tokio::select! {
                () = sleep(self.options.patience) => {}
                () = async { self.shutdown.cancelled().await; sleep(LAST_WORDS).await } => {}
            }
        };
        let answered = async { while loads.join_next().await.is_some() {} };
        tokio::select! {
            () = answered => return,
            () = patience => give_up.cancel(),
        }
        loads.join_all().await;
    }

    /// Waits until everything has arrived, or nothing has arrived for the configured patience.
    async fn drain(&self, plan: &Plan, first: u64) {
        let mut delivered = 0;
        let mut progress = Instant::now();
        let mut interrupted = None;
        loop {
            let totals = self.ledger.totals();
            let is_level = totals.delivered >= totals.expected;
            if is_level && self.is_complete(plan, first) {
                return;
            }
            if totals.delivered > delivered {
                (delivered, progress) = (totals.delivered, Instant::now());
            }
            if self.shutdown.is_cancelled() {
                interrupted.get_or_insert_with(Instant::now);
            }
            let is_over = |since: Instant, patience| since.elapsed() >= patience;
            if is_over(progress, self.options.patience)
                || interrupted.is_some_and(|since| is_over(since, LAST_WORDS))
            {
                return;
            }
            sleep(if is_level { SLOW_POLL } else { POLL }).await;
        }
    }

    fn is_complete(&self, plan: &Plan, first: u64) -> bool {
        self.ledger.events(first..self.ledger.next()).filter(|event| event.accepted.is_some()).all(|event| {
            let lane = &plan.lanes[event.lane];
            let mut deliveries = self.ledger.deliveries(event.number, lane.fan_out());
            !lane.behaviour.takes() || deliveries.all(|delivery| delivery.taken.is_some())
        })
    }

    fn mark(&self) -> Mark {
        Mark { at: self.ledger.now(), number: self.ledger.next(), usage: self.installation.roster.usage() }
    }

    /// Starts to read lists if the installation has grown.
    fn reading(&self, phase: &Phase, stop: &CancellationToken) -> Option<JoinHandle<Vec<ListReport>>> {
        phase.growth?;
        let (client, stop) = (self.installation.client.clone(), stop.clone());
        let key = self.fixture.applications.first()?.api_key.clone();
        let backlogged = self.fixture.endpoints.last()?.id.clone();
        Some(tokio::spawn(async move { reader::read(&client, &key, &backlogged, &stop).await }))
    }

    fn sampler(&self, phase: &Phase) -> Sampler {
        Sampler {
            ledger: self.ledger.clone(),
            roster: self.installation.roster.clone(),
            metrics: self.installation.metrics.clone(),
            title: phase.name.to_owned(),
            length: phase.warm_up + phase.duration,
        }
    }

    fn producer(
        &self,
        plan: &Plan,
        number: usize,
        load: Load,
        troubles: &Arc<Troubles>,
        stop: &CancellationToken,
        give_up: &CancellationToken,
    ) -> anyhow::Result<Producer> {
        let lane = &plan.lanes[number];
        let Options { payload_bytes, seed, .. } = *self.options;
        let run = &self.fixture.run;
        // One template per event type.
        let types = lane.endpoints / lane.fan_out();
        let template =
            |index| Template::new(&event_type(run, number, lane.spread, index), payload_bytes, seed);
        tracing::debug!(lane = lane.name, ?load, "posting");
        Ok(Producer {
            lane: number,
            ledger: self.ledger.clone(),
            target: Arc::new(Target::new(
                &self.installation.api,
                &self.fixture.applications[lane.application].api_key,
            )?),
            templates: (0..types).map(template).collect(),
            turn: AtomicU64::new(0),
            expected: if lane.behaviour.takes() { lane.fan_out() } else { 0 },
            run: run.clone(),
            troubles: troubles.clone(),
            stop: stop.clone(),
            give_up: give_up.clone(),
        })
    }
}
