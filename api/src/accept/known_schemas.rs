//! Which schema the events of a type must satisfy, as far as this process knows.
//!
//! What is known here is a guess, and never decides: the statement that stores an event compares the schema
//! that it was checked against with the one of that moment. A change of the catalogue therefore holds for
//! every event that is stored after it, on every replica.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use moka::sync::Cache;
use postrider_shared::ids::ApplicationId;
use postrider_shared::store::Store;
use postrider_shared::store::accept::{NewEvent, SchemaCheck};
use postrider_shared::store::event_types;

use crate::auth::party::Party;
use crate::schema::{Checked, Schema};
use crate::web::problem::{FieldError, Problem};

/// Producers and types of which it is remembered what their events must satisfy.
const MAX_KNOWN: u64 = 100_000;
/// Bytes of compiled schemas that are kept.
const MAX_COMPILED_BYTES: u64 = 256 << 20;

/// The schemas that are known, of all applications.
pub(crate) struct KnownSchemas {
    store: Store,
    hasher: RandomState,
    /// The hash of the schema, by producer and type.
    known: Cache<u64, [u8; 32]>,
    /// Schemas by their hash: applications that share one share it here too.
    compiled: Cache<[u8; 32], Arc<Schema>>,
}

impl KnownSchemas {
    /// Knows nothing yet.
    pub(crate) fn new(store: Store) -> Self {
        let compiled = Cache::builder()
            .weigher(|_, schema: &Arc<Schema>| schema.bytes())
            .max_capacity(MAX_COMPILED_BYTES)
            .build();
        Self { store, hasher: RandomState::new(), known: Cache::new(MAX_KNOWN), compiled }
    }

    /// Checks an event against the schema that its type is known to have, notes in it what was found, and
    /// answers the violations.
    ///
    /// # Errors
    /// 422 where that would cost too much, 503.
    pub(crate) async fn check(
        &self,
        party: &Party,
        event: &mut NewEvent,
    ) -> Result<Vec<FieldError>, Problem> {
        let known = self.known.get(&self.key(event)).and_then(|hash| self.compiled.get(&hash));
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

    /// Learns what events such as this one of the application must satisfy now.
    ///
    /// # Errors
    /// 503.
    pub(crate) async fn learn(&self, event: &NewEvent, application: ApplicationId) -> Result<(), Problem> {
        let key = self.key(event);
        match event_types::get_schema(&self.store, application, event.event_type.as_str()).await? {
            None => self.known.invalidate(&key),
            Some(stored) => {
                let hash = stored.hash;
                if !self.compiled.contains_key(&hash) {
                    let schema = compile(stored).await?;
                    self.compiled.insert(hash, Arc::new(schema));
                }
                self.known.insert(key, hash);
            }
        }
        Ok(())
    }

    fn key(&self, event: &NewEvent) -> u64 {
        self.hasher.hash_one((&event.producer, &event.event_type))
    }
}

/// It was compiled when it was set, so that this can fail only where a newer version reads it differently.
async fn compile(stored: event_types::StoredSchema) -> Result<Schema, Problem> {
    let compiling = tokio::task::spawn_blocking(move || Schema::compile(&stored));
    match compiling.await {
        Ok(Ok(schema)) => Ok(schema),
        Ok(Err(error)) => {
            tracing::error!(?error, "a stored schema cannot be used");
            Err(Problem::internal())
        }
        Err(error) => {
            tracing::error!(%error, "compiling a schema ended badly");
            Err(Problem::internal())
        }
    }
}
