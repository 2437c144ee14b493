//! What a service waits for before it works.

use std::time::Duration;

use postrider_runtime::health::Health;
use tokio_util::sync::CancellationToken;

use crate::{Store, StoreError, migrate};

/// A service that starts before PostgreSQL asks this often.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Waits until PostgreSQL answers, and checks that its schema is the one that it takes to serve, and whatever else
/// `check` asks for; meanwhile `part` of the health is down. False: told to stop.
///
/// # Errors
/// When waiting would not help: the schema is not the right one, `check` says so, or the server refuses the role or
/// knows no such database.
pub async fn until_it_fits<C: Future<Output = Result<(), StoreError>>>(
    store: &Store,
    check: impl Fn() -> C,
    health: &Health,
    part: &'static str,
    shutdown: &CancellationToken,
) -> Result<bool, StoreError> {
    health.expect(part);
    loop {
        let fits = async {
            migrate::check_schema(store).await?;
            check().await
        };
        match fits.await {
            Ok(()) => {
                health.up(part);
                return Ok(true);
            }
            Err(error) if error.is_misconfigured() => return Err(error),
            Err(error) => health.down(part, error),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(ASK_EVERY)).await.is_none() {
            return Ok(false);
        }
    }
}
