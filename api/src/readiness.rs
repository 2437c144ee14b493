//! Whether the API may serve: not before PostgreSQL is reachable and its schema is the right one.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::web::problem::Problem;

/// How long a request waits: an API that is being started beside a PostgreSQL that is there needs no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// False at first, and true from some time on. All clones are one.
#[derive(Clone)]
pub(crate) struct SchemaReady(watch::Sender<bool>);

impl SchemaReady {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// PostgreSQL was found to fit.
    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is true.
    pub(crate) async fn reached(&self) {
        let _ = self.0.subscribe().wait_for(|is_ready| *is_ready).await;
    }

    /// Lets a request wait for it.
    ///
    /// # Errors
    /// 503 where it takes longer than five seconds.
    pub(crate) async fn let_in(&self) -> Result<(), Problem> {
        if self.is_set() {
            return Ok(());
        }
        timeout(PATIENCE, self.reached()).await.map_err(|_| Problem::database_unavailable())
    }
}
