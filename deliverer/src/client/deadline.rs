//! When an exchange must be over.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// A point in time, and the timeout that it results from.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    after: Duration,
}

impl Deadline {
    /// Returns the deadline that is `after` from now.
    pub(crate) fn after(after: Duration) -> Self {
        Self { at: Instant::now() + after, after }
    }

    /// Returns the earlier of this deadline and the one `after` from now.
    pub(crate) fn or_after(self, after: Duration) -> Self {
        let other = Self::after(after);
        if other.at < self.at { other } else { self }
    }

    /// Returns the output of a future, or `None` if it does not complete in time.
    pub(crate) async fn cap<F: Future>(self, future: F) -> Option<F::Output> {
        timeout_at(self.at, future).await.ok()
    }

    /// Returns the error message for an exchange that missed the deadline.
    pub(crate) fn exceeded(self) -> String {
        format!("the exchange took longer than {self}")
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.after.as_secs())
    }
}
