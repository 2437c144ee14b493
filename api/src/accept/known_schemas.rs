//! The schemas that events must satisfy, as far as this process knows.
//!
//! The cache may be outdated and never decides. The statement that stores an event compares the schema that the event
//! was checked against with the current one. A change of the catalogue therefore applies to every event that is
//! stored after it, on every replica.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use moka::sync::Cache;
use postrider_domain::event::{NewEvent, SchemaCheck};
use postrider_domain::ids::ApplicationId;
use postrider_store::{Store, event_types};

use crate::accept::error::AcceptError;
use crate::auth::party::Party;
use crate::schema::kept::KeptSchemas;
use crate::schema::{Checked, SchemaError, Violation};

/// How many pairs of producer and type are remembered.
const MAX_KNOWN: u64 = 100_000;

/// The known schemas of all applications.
pub(crate) struct KnownSchemas {
    store: Store,
    hasher: RandomState,
    /// The application and the hash of its schema, by producer and type.
    known: Cache<u64, (ApplicationId, [u8; 32])>,
    compiled: Arc<KeptSchemas>,
}

impl KnownSchemas {
    /// Creates an empty cache.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            hasher: RandomState::new(),
            known: Cache::new(MAX_KNOWN),
            compiled: Arc::new(KeptSchemas::new()),
        }
    }

    /// Checks an event against the known schema of its type, stores the finding in the event, and returns the
    /// violations.
    ///
    /// # Errors
    /// If the data could not be checked.
    pub(crate) async fn check(
        &self,
        party: &Party,
        event: &mut NewEvent,
    ) -> Result<Vec<Violation>, SchemaError> {
        let known = self.known.get(&self.key(event));
        let known = known.and_then(|(application, hash)| self.compiled.get(application, &hash));
        let Some(schema) = known else {
            event.schema = SchemaCheck::Unchecked;
            return Ok(Vec::new());
        };
        match schema.check(party, &event.data).await? {
            Checked::Satisfied => {
                event.schema = SchemaCheck::Satisfies(schema.hash);
                Ok(Vec::new())
            }
            Checked::Violated(violations) => {
                event.schema = SchemaCheck::Violates(schema.hash);
                Ok(violations)
            }
        }
    }

    /// Reads the current schema for events of this producer and type.
    ///
    /// # Errors
    /// If the schema could not be read or compiled.
    pub(crate) async fn learn(
        &self,
        event: &NewEvent,
        application: ApplicationId,
    ) -> Result<(), AcceptError> {
        let key = self.key(event);
        match event_types::get_schema(&self.store, application, event.event_type.as_str()).await? {
            None => self.known.invalidate(&key),
            Some(stored) => {
                let hash = stored.hash;
                self.compiled.learn(application, stored).await?;
                self.known.insert(key, (application, hash));
            }
        }
        Ok(())
    }

    fn key(&self, event: &NewEvent) -> u64 {
        self.hasher.hash_one((&event.producer, &event.event_type))
    }
}
