//! Background tasks. Each takes one step after another until it is told to stop.
//!
//! All tasks have the following in common, whatever their steps do: a span with the name of the task, waits that grow
//! after failures, metrics, and the end of the process if a step panics.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::supervise::Supervisor;
use crate::telemetry::metric;

/// The wait after a first failure. It doubles with each failure in a row. Random jitter adds up to the same amount
/// again.
const FIRST_BACKOFF: Duration = Duration::from_millis(125);

/// Bounds of the longest such wait, which is a quarter of the cadence. It must be short enough to notice the end of an
/// outage soon, and long enough because many tasks wait for the same server.
const LEAST_MAX_BACKOFF: Duration = Duration::from_millis(500);
const GREATEST_MAX_BACKOFF: Duration = Duration::from_secs(5);

/// When the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// After the cadence of the task, or when it is woken.
    Later,
    /// After this time, or when the task is woken.
    Within(Duration),
    /// After this time, even if the task is woken before.
    After(Duration),
}

/// A service that has background tasks.
pub trait Service: Send + Sync + 'static {
    /// Why a step can fail.
    type Error: Display + Send;

    /// Called after each step that succeeded.
    fn succeeded(&self) {}

    /// Called after each step that failed, to record in the health of the service what is down.
    fn failed(&self, error: Self::Error) -> impl Future<Output = ()> + Send;
}

/// One step of a task of the service `S`. Functions `async fn(Arc<S>) -> Result<Next, S::Error>` are steps; types that
/// implement this keep state between steps.
pub trait Step<S: Service>: Send + 'static {
    /// Takes the step, and returns when the next one is due.
    ///
    /// # Errors
    /// If it failed. The next step follows after a growing wait.
    fn run(&mut self, service: &Arc<S>) -> impl Future<Output = Result<Next, S::Error>> + Send;

    /// Returns when there is a reason to take the next step before its time. Never, unless implemented. It must be
    /// cancel safe.
    ///
    /// # Errors
    /// If waiting failed. It counts as a failed step.
    fn woken(&mut self, service: &Arc<S>) -> impl Future<Output = Result<(), S::Error>> + Send {
        let _ = service;
        std::future::pending()
    }
}

impl<S, F, Fut> Step<S> for F
where
    S: Service,
    F: FnMut(Arc<S>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Next, S::Error>> + Send,
{
    fn run(&mut self, service: &Arc<S>) -> impl Future<Output = Result<Next, S::Error>> + Send {
        self(service.clone())
    }
}

/// Tasks of a service that end together.
pub struct Tasks<S> {
    service: Arc<S>,
    supervisor: Supervisor,
    stop: CancellationToken,
    running: Vec<AbortOnDropHandle<()>>,
}

impl<S: Service> Tasks<S> {
    /// Creates an empty set. Its tasks continue after the supervisor is told to stop, until [`end`](Self::end) or
    /// [`finish`](Self::finish) is called.
    #[must_use]
    pub fn new(supervisor: &Supervisor, service: &Arc<S>) -> Self {
        Self {
            service: service.clone(),
            supervisor: supervisor.clone(),
            stop: CancellationToken::new(),
            running: Vec::new(),
        }
    }

    /// Starts a task. It takes the first step now, and each further step when the previous one says.
    pub fn every(&mut self, name: &'static str, cadence: Duration, step: impl Step<S>) {
        let task = run(name, cadence, step, self.service.clone(), self.stop.clone());
        self.running.push(self.supervisor.spawn(name, task));
    }

    /// Ends the tasks at once: a step in progress is dropped.
    pub async fn end(self) {
        self.running.iter().for_each(AbortOnDropHandle::abort);
        self.finish().await;
    }

    /// Ends the tasks once the steps in progress are done.
    pub async fn finish(self) {
        self.stop.cancel();
        for task in self.running {
            // An error only means that the task was aborted.
            let _ = task.await;
        }
    }
}

async fn run<S: Service>(
    name: &'static str,
    cadence: Duration,
    mut step: impl Step<S>,
    service: Arc<S>,
    stop: CancellationToken,
) {
    let seconds = metrics::histogram!(metric::TASK_STEP_SECONDS, "task" => name);
    let mut failures = None;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let mut result = step.run(&service).await;
        seconds.record(began.elapsed());
        if let Ok(next) = result {
            service.succeeded();
            failures = None;
            match stop.run_until_cancelled(wait(&mut step, &service, next, cadence)).await {
                None => break,
                Some(Ok(())) => continue,
                Some(Err(error)) => result = Err(error),
            }
        }
        if let Err(error) = result {
            metrics::counter!(metric::TASK_FAILURES, "task" => name).increment(1);
            tracing::debug!(%error, "a step failed");
            service.failed(error).await;
            let delay = failures.get_or_insert_with(|| backoff(cadence)).next().unwrap_or(cadence);
            stop.run_until_cancelled(tokio::time::sleep(delay)).await;
        }
    }
}

/// Waits until the next step is due.
async fn wait<S: Service>(
    step: &mut impl Step<S>,
    service: &Arc<S>,
    next: Next,
    cadence: Duration,
) -> Result<(), S::Error> {
    let limit = match next {
        Next::Now => return Ok(()),
        Next::After(time) => {
            tokio::time::sleep(time).await;
            return Ok(());
        }
        Next::Later => cadence,
        Next::Within(time) => time,
    };
    tokio::time::timeout(limit, step.woken(service)).await.unwrap_or(Ok(()))
}

/// Returns the waits after consecutive failures.
fn backoff(cadence: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_BACKOFF)
        .with_max_delay((cadence / 4).clamp(LEAST_MAX_BACKOFF, GREATEST_MAX_BACKOFF))
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
#[path = "every_tests.rs"]
mod tests;
