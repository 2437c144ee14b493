//! A cache of compiled schemas, which charges each schema to the applications that use it.
//!
//! When there is no room, the application that uses the most memory loses the schema that it has not used for
//! longest. So no application can displace the schemas of one that uses less.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use postrider_domain::ids::ApplicationId;
use postrider_store::event_types::StoredSchema;

use super::{Schema, SchemaError, Violation, in_turn};
use crate::auth::party::Party;

/// The most bytes for all applications.
const MAX_BYTES: u64 = 256 << 20;
/// The most bytes for one application.
const MAX_BYTES_OF_ONE: u64 = 64 << 20;
/// Bytes needed to record that an application uses a schema.
const USE_BYTES: u64 = 256;

type Hash = [u8; 32];

/// The cache of compiled schemas; see the [module](self).
pub(crate) struct KeptSchemas {
    state: Mutex<State>,
    max_bytes: u64,
    max_bytes_of_one: u64,
}

#[derive(Default)]
struct State {
    /// Each schema is stored once, with the number of applications that use it.
    schemas: HashMap<Hash, (Arc<Schema>, usize)>,
    accounts: HashMap<ApplicationId, Account>,
    bytes: u64,
    /// A counter that orders uses by time.
    now: u64,
}

#[derive(Default)]
struct Account {
    /// The bytes of its schemas, as if no one else used them.
    bytes: u64,
    last_used: HashMap<Hash, u64>,
}

impl KeptSchemas {
    /// Creates an empty cache.
    pub(crate) fn new() -> Self {
        Self::of_at_most(MAX_BYTES, MAX_BYTES_OF_ONE)
    }

    fn of_at_most(max_bytes: u64, max_bytes_of_one: u64) -> Self {
        Self { state: Mutex::default(), max_bytes, max_bytes_of_one }
    }

    /// Returns a schema that the application uses, if it is cached.
    pub(crate) fn get(&self, application: ApplicationId, hash: &Hash) -> Option<Arc<Schema>> {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        *state.accounts.get_mut(&application)?.last_used.get_mut(hash)? = now;
        state.schemas.get(hash).map(|(schema, _)| schema.clone())
    }

    /// Compiles a schema for an application, unless it is cached. Returns true if it was compiled. A concurrent call
    /// for the same schema waits for a turn, and then finds it.
    ///
    /// # Errors
    /// If too many others wait, or the stored schema cannot be used.
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
        // It compiled when it was set, so this fails only if a newer version reads it differently.
        compiling.await?.map_err(|error: Violation| {
            tracing::error!(?error, "a stored schema does not compile");
            SchemaError::Internal
        })
    }

    /// Records that the application uses a cached schema. Returns false if it is not cached.
    fn adopt(&self, application: ApplicationId, hash: &Hash) -> bool {
        let known = self.state().schemas.get(hash).map(|(schema, _)| schema.clone());
        known.map(|schema| self.keep(application, schema)).is_some()
    }

    /// Caches a schema for an application, and makes room for it.
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

    /// Removes the schema that the application has not used for longest.
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
