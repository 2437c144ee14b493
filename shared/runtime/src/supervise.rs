//! Supervision of the background tasks of a service, so that none of them ends unnoticed.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::failpoint;

/// A task that the service needs has ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TaskFailed {
    /// It returned although it was not told to stop.
    #[error("the task `{0}` stopped unexpectedly")]
    Ended(&'static str),
    /// It panicked.
    #[error("the task `{0}` panicked: {1}")]
    Panicked(&'static str, String),
}

/// Starts the tasks of a service and watches them. If one panics, or returns before the service is told to stop, the
/// [token](Self::stop) that all of them watch is cancelled. The service then shuts down in order, and
/// [`outcome`](Self::outcome) says why. All clones share the same state.
#[derive(Clone)]
pub struct Supervisor {
    stop: CancellationToken,
    failure: Arc<OnceLock<TaskFailed>>,
}

impl Supervisor {
    /// Creates a supervisor for a service that runs until `shutdown`.
    #[must_use]
    pub fn new(shutdown: &CancellationToken) -> Self {
        Self { stop: shutdown.child_token(), failure: Arc::default() }
    }

    /// Returns the token that is cancelled when the service must stop: it is shut down, or one of its tasks has failed.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task that must not end before the service stops. Dropping the handle aborts it.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        let supervisor = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let task = async {
                failpoint::die_at_for("task", name);
                task.await;
            };
            // An error span is enabled at every log level, so that all lines of the task have its name.
            let task = task.instrument(tracing::error_span!("background", task = name));
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) if supervisor.stop.is_cancelled() => {}
                Ok(()) => supervisor.fail(TaskFailed::Ended(name)),
                Err(panic) => supervisor.fail(TaskFailed::Panicked(name, message(panic.as_ref()))),
            }
        }))
    }

    fn fail(&self, failure: TaskFailed) {
        tracing::error!("{failure}; stopping the service");
        // The first failure is the cause of any others.
        let _ = self.failure.set(failure);
        self.stop.cancel();
    }

    /// Returns whether a task has failed.
    ///
    /// # Errors
    /// [`TaskFailed`] with the first failure, if there was one.
    pub fn outcome(&self) -> Result<(), TaskFailed> {
        self.failure.get().cloned().map_or(Ok(()), Err)
    }
}

/// Returns the message of a panic.
#[must_use]
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_stops_the_others_and_is_named() {
        let shutdown = CancellationToken::new();
        let supervisor = Supervisor::new(&shutdown);
        let stop = supervisor.stop().clone();
        let other = supervisor.spawn("other", async move { stop.cancelled().await });
        let _failing = supervisor.spawn("failing", async { panic!("at {}", 7) });
        other.await.expect("the other task ends normally");
        let failure = supervisor.outcome().expect_err("a failure").to_string();
        assert_eq!(failure, "the task `failing` panicked: at 7");
        assert!(!shutdown.is_cancelled(), "the supervisor does not cancel its caller's token");
    }

    #[tokio::test]
    async fn a_task_may_end_once_it_is_told_to_and_not_before() {
        let shutdown = CancellationToken::new();
        let supervisor = Supervisor::new(&shutdown);
        let stop = supervisor.stop().clone();
        let task = supervisor.spawn("good", async move { stop.cancelled().await });
        shutdown.cancel();
        task.await.expect("the task ends normally");
        assert!(supervisor.outcome().is_ok());

        let supervisor = Supervisor::new(&CancellationToken::new());
        supervisor.spawn("hasty", async {}).await.expect("the task ends normally");
        assert!(supervisor.stop().is_cancelled());
        let failure = supervisor.outcome().expect_err("a failure").to_string();
        assert_eq!(failure, "the task `hasty` stopped unexpectedly");
    }

    #[tokio::test]
    async fn a_task_ends_with_its_handle() {
        let supervisor = Supervisor::new(&CancellationToken::new());
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        drop(supervisor.spawn("helper", async move {
            let _sender = sender;
            std::future::pending().await
        }));
        assert!(receiver.await.is_err(), "the task is gone");
        assert!(supervisor.outcome().is_ok(), "an aborted task is not a failure");
    }
}
