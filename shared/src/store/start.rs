//! What a service waits for before it works.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Store, StoreError, migrate, rekey};
use crate::health::Health;
use crate::keyring::Keyring;

/// A service that starts before PostgreSQL asks this often.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Waits until PostgreSQL answers, and checks that its schema, and the `keyring` where there is one, are those
/// that it takes to serve; meanwhile `part` of the health is down. False: told to stop.
///
/// # Errors
/// When waiting would not help: the schema or a key is not the right one, or the server refuses the role or
/// knows no such database.
pub async fn until_it_fits(
    store: &Store,
    keyring: Option<&Keyring>,
    health: &Health,
    part: &'static str,
    shutdown: &CancellationToken,
) -> Result<bool, StoreError> {
    health.expect(part);
    loop {
        match check(store, keyring).await {
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

async fn check(store: &Store, keyring: Option<&Keyring>) -> Result<(), StoreError> {
    migrate::check_schema(store).await?;
    match keyring {
        Some(keyring) => rekey::check_keyring(store, keyring).await,
        None => Ok(()),
    }
}
