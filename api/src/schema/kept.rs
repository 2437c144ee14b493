//! Compiled schemas that are kept, on the accounts of the applications that use them.
//!
//! When there is no room, the application that takes most loses what it has not used for longest. So no application
//! can displace the schemas of one that takes less than itself.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use postrider_domain::ids::ApplicationId;
use postrider_store::event_types::StoredSchema;

use super::{Schema, SchemaError, Violation, in_turn};
use crate::auth::party::Party;

/// Bytes of all of them.
const MAX_BYTES: u64 = 256 << 20;
/// Bytes of those of one application.
const MAX_BYTES_OF_ONE: u64 = 64 << 20;
/// Bytes that it takes to know that an application uses a schema.
const USE_BYTES: u64 = 256;

type Hash = [u8; 32];

/// See the [module](self).
pub(crate) struct KeptSchemas {
    state: Mutex<State>,
    max_bytes: u64,
    max_bytes_of_one: u64,
}

#[derive(Default)]
struct State {
    /// Each is kept once, with the number of applications that use it.
    schemas: HashMap<Hash, (Arc<Schema>, usize)>,
    accounts: HashMap<ApplicationId, Account>,
    bytes: u64,
    /// Counts uses.
    now: u64,
}

#[derive(Default)]
struct Account {
    /// As if nobody else used its schemas.
    bytes: u64,
    last_used: HashMap<Hash, u64>,
}

impl KeptSchemas {
    /// Nothing is kept yet.
    pub(crate) fn new() -> Self {
        Self::of_at_most(MAX_BYTES, MAX_BYTES_OF_ONE)
    }

    fn of_at_most(max_bytes: u64, max_bytes_of_one: u64) -> Self {
        Self { state: Mutex::default(), max_bytes, max_bytes_of_one }
    }

    /// A schema that the application uses.
    pub(crate) fn get(&self, application: ApplicationId, hash: &Hash) -> Option<Arc<Schema>> {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        *state.accounts.get_mut(&application)?.last_used.get_mut(hash)? = now;
        state.schemas.get(hash).map(|(schema, _)| schema.clone())
    }

    /// Compiles a schema that the application uses, unless that has been done; true: it was compiled. Whoever asks
    /// for the same meanwhile waits for a turn, and finds it.
    ///
    /// # Errors
    /// When others wait for the same, or the schema cannot be used although it is stored.
    pub(crate) async fn learn(
        self: &Arc<Self>,
        application: ApplicationId,
        stored: StoredSchema,
    ) -> Result<bool, SchemaError> {
        if self.adopt(application, &stored.hash) {
            return Ok(false);
        }
        let (kept, party) = (self.clone(), Party::Application(application));
        let compiling = in_turn(&party, move || {
            if kept.adopt(application, &stored.hash) {
                return Ok(false);
            }
            let schema = Schema::compile(&stored)?;
            kept.keep(application, Arc::new(schema));
            Ok(true)
        });
        // It was compiled when it was set, so this fails only where a newer version reads it differently.
        compiling.await?.map_err(|error: Violation| {
            tracing::error!(?error, "a stored schema cannot be used");
            SchemaError::Internal
        })
    }

    /// Has the application use a schema that is kept; false: it is not.
    fn adopt(&self, application: ApplicationId, hash: &Hash) -> bool {
        let known = self.state().schemas.get(hash).map(|(schema, _)| schema.clone());
        known.map(|schema| self.keep(application, schema)).is_some()
    }

    /// Keeps a schema that the application uses.
    fn keep(&self, application: ApplicationId, schema: Arc<Schema>) {
        let mut state = self.state();
        state.keep(application, schema);
        while state.accounts.get(&application).is_some_and(|account| account.bytes > self.max_bytes_of_one) {
            state.drop_one_of(application);
        }
        while state.bytes > self.max_bytes {
            let largest = state.accounts.iter().max_by_key(|(_, account)| account.bytes);
            let Some((&largest, _)) = largest else { return };
            state.drop_one_of(largest);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock()
    }
}

impl State {
    fn keep(&mut self, application: ApplicationId, schema: Arc<Schema>) {
        self.now += 1;
        let account = self.accounts.entry(application).or_default();
        if account.last_used.insert(schema.hash, self.now).is_some() {
            return;
        }
        account.bytes += schema.bytes() + USE_BYTES;
        self.bytes += USE_BYTES;
        let (schema, users) = self.schemas.entry(schema.hash).or_insert((schema, 0));
        *users += 1;
        if *users == 1 {
            self.bytes += schema.bytes();
        }
    }

    /// Drops what an application has not used for longest.
    fn drop_one_of(&mut self, application: ApplicationId) {
        let Some(account) = self.accounts.get_mut(&application) else { return };
        let oldest = account.last_used.iter().min_by_key(|(_, used)| **used).map(|(hash, _)| *hash);
        if let Some(hash) = oldest
            && let Some((schema, users)) = self.schemas.get_mut(&hash)
        {
            account.last_used.remove(&hash);
            account.bytes -= schema.bytes() + USE_BYTES;
            self.bytes -= USE_BYTES;
            *users -= 1;
            if *users == 0 {
                self.bytes -= schema.bytes();
                self.schemas.remove(&hash);
            }
        }
        if account.last_used.is_empty() {
            self.accounts.remove(&application);
        }
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
