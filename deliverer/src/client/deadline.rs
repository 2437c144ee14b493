//! When an exchange has to be over.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// A moment, and how long after its beginning that is.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    after: Duration,
}

impl Deadline {
    /// From now.
    pub(crate) fn after(after: Duration) -> Self {
        Self { at: Instant::now() + after, after }
    }

    /// This one, or one `after` from now, whichever is sooner.
    pub(crate) fn or_after(self, after: Duration) -> Self {
        let other = Self::after(after);
        if other.at < self.at { other } else { self }
    }

    /// The output of a future, or `None` where it does not come in time.
    pub(crate) async fn cap<F: Future>(self, future: F) -> Option<F::Output> {
        timeout_at(self.at, future).await.ok()
    }

    /// What is said of an exchange that is not over by then.
    pub(crate) fn exceeded(self) -> String {
        format!("the exchange took longer than {self}")
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.after.as_secs())
    }
}
