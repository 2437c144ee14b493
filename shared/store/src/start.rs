//! What a service waits for before it starts working.

use std::time::Duration;

use postrider_runtime::health::Health;
use tokio_util::sync::CancellationToken;

use crate::{Store, StoreError, migrate};

/// How often a service that starts before PostgreSQL tries to connect.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Waits until PostgreSQL responds, and checks that its schema fits this program and that `check` succeeds. Until then,
/// `part` of the health is down. Returns false if the service was told to stop.
///
/// # Errors
/// [`StoreError`] if waiting would not help: the schema does not fit, `check` fails permanently, or the server refuses
/// the role or does not know the database.
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
