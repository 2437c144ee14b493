//! The door that requests wait at until PostgreSQL was found to fit.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::web::problem::Problem;

/// How long a request waits: an API that is being started and a PostgreSQL that is there need no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Closed at first. All clones are one.
#[derive(Clone)]
pub(crate) struct Door(watch::Sender<bool>);

impl Door {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the door is open.
    pub(crate) async fn opened(&self) {
        let _ = self.0.subscribe().wait_for(|is_open| *is_open).await;
    }

    /// Waits until the door is open, a while at most; then it is a 503.
    pub(crate) async fn pass(&self) -> Result<(), Problem> {
        if self.is_open() {
            return Ok(());
        }
        timeout(PATIENCE, self.opened()).await.map_err(|_| Problem::database_unavailable())
    }
}
