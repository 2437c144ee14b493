//! When API keys were last used: noted in memory, written now and then, so that no request waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use postrider_runtime::every::Next;
use postrider_store::api_keys::{self, KeyHash};
use postrider_store::{Store, StoreError};

use crate::app::App;

/// How old `last_used_at` may be.
pub(crate) const CADENCE: Duration = Duration::from_secs(30);
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
        let mut used = self.used.lock();
        if used.len() < MAX_KEYS || used.contains_key(&hash) {
            used.insert(hash, Utc::now());
        }
    }

    /// Writes what was noted.
    pub(crate) async fn flush(&self, store: &Store) {
        let used = std::mem::take(&mut *self.used.lock());
        if used.is_empty() {
            return;
        }
        let uses: Vec<_> = used.into_iter().collect();
        if let Err(error) = api_keys::record_use(store, &uses).await {
            tracing::debug!(%error, keys = uses.len(), "the last use of keys was not recorded");
        }
    }
}

/// Writes what was noted, as a step of a task.
pub(crate) async fn flush(app: Arc<App>) -> Result<Next, StoreError> {
    app.key_use.flush(&app.store).await;
    Ok(Next::Later)
}
