//! Records when API keys were last used. Uses are collected in memory and written from time to time, so that no
//! request waits for the write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use postrider_runtime::every::Next;
use postrider_store::api_keys::{self, KeyHash};
use postrider_store::{Store, StoreError};

use crate::app::App;

/// How often uses are written, and so how outdated `last_used_at` may be.
pub(crate) const CADENCE: Duration = Duration::from_secs(30);
/// The most keys that are recorded between two flushes. Uses of further keys are ignored.
const MAX_KEYS: usize = 100_000;

/// The API keys that were used since the last flush.
#[derive(Default)]
pub(crate) struct KeyUse {
    used: Mutex<HashMap<KeyHash, DateTime<Utc>>>,
}

impl KeyUse {
    /// Records that a valid key was used.
    pub(crate) fn note(&self, hash: KeyHash) {
        let mut used = self.used.lock();
        if used.len() < MAX_KEYS || used.contains_key(&hash) {
            used.insert(hash, Utc::now());
        }
    }

    /// Writes the recorded uses to PostgreSQL. If that fails, they are lost.
    pub(crate) async fn flush(&self, store: &Store) {
        let used = std::mem::take(&mut *self.used.lock());
        if used.is_empty() {
            return;
        }
        let uses: Vec<_> = used.into_iter().collect();
        if let Err(error) = api_keys::record_use(store, &uses).await {
            tracing::debug!(%error, keys = uses.len(), "could not record the last use of API keys");
        }
    }
}

/// Flushes the recorded uses, as a step of a background task.
pub(crate) async fn flush(app: Arc<App>) -> Result<Next, StoreError> {
    app.key_use.flush(&app.store).await;
    Ok(Next::Later)
}
