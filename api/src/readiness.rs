//! Whether the API may serve requests: PostgreSQL is reachable and has the right schema.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::web::problem::Problem;

/// How long a request waits for readiness. That is enough when the API starts while PostgreSQL is already running.
const PATIENCE: Duration = Duration::from_secs(5);

/// False at startup, then true for good. Clones share the value.
#[derive(Clone)]
pub(crate) struct SchemaReady(watch::Sender<bool>);

impl SchemaReady {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Records that PostgreSQL is reachable and its schema fits.
    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the schema is ready.
    pub(crate) async fn reached(&self) {
        let _ = self.0.subscribe().wait_for(|is_ready| *is_ready).await;
    }

    /// Makes a request wait until the schema is ready.
    ///
    /// # Errors
    /// 503 after five seconds.
    pub(crate) async fn let_in(&self) -> Result<(), Problem> {
        if self.is_set() {
            return Ok(());
        }
        timeout(PATIENCE, self.reached()).await.map_err(|_| Problem::database_unavailable())
    }
}
