//! When API keys were last used: noted in memory, written now and then, so that no request waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use postrider_store::Store;
use postrider_store::api_keys::{self, KeyHash};
use tokio_util::sync::CancellationToken;

/// How old `last_used_at` may be.
const FLUSH_INTERVAL: Duration = Duration::from_secs(30);
/// Keys that are noted between two flushes; more than these go unnoted.
const MAX_KEYS: usize = 100_000;

/// The keys that were used since the last flush.
#[derive(Default)]
pub(crate) struct KeyUse {
    used: Mutex<HashMap<KeyHash, DateTime<Utc>>>,
}

impl KeyUse {
    /// Notes that a key was used, and was good.
    pub(crate) fn note(&self, hash: KeyHash) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < MAX_KEYS || used.contains_key(&hash) {
            used.insert(hash, Utc::now());
        }
    }

    /// Writes what was noted, every half minute and once more at the end.
    pub(crate) async fn flush_until(self: Arc<Self>, store: Store, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(FLUSH_INTERVAL)).await.is_some() {
            self.flush(&store).await;
        }
        self.flush(&store).await;
    }

    async fn flush(&self, store: &Store) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let uses: Vec<_> = used.into_iter().collect();
        if let Err(error) = api_keys::record_use(store, &uses).await {
            tracing::debug!(%error, keys = uses.len(), "the last use of keys was not recorded");
        }
    }
}
