//! Determines which application a request counts for, before any expensive work, so that the resources of each
//! application can be limited.
//!
//! The cached result only decides who shares with whom. A key that was revoked a moment ago still counts for its
//! application, and the usual check then refuses it.

use moka::sync::Cache;
use postrider_domain::event::Producer;
use postrider_domain::ids::ApplicationId;
use postrider_store::api_keys::{self, KeyHash};
use postrider_store::applications::{self, ApplicationRef};
use postrider_store::{Store, StoreError};
use tokio::sync::Semaphore;

use crate::auth::Credential;

/// How many keys and how many uids are cached.
const MAX_KNOWN: u64 = 100_000;
/// How many look-ups of uncached keys and uids may run at once, for all callers.
const MAX_LOOK_UPS: usize = 2;

/// The owner of a share of this process's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// An application, through one of its keys or the admin acting for it.
    Application(ApplicationId),
    /// The admin, acting for no application.
    Admin,
    /// All callers that are not identified.
    Stranger,
}

/// A cache of the application that each key and uid belongs to.
pub(crate) struct Parties {
    store: Store,
    by_key: Cache<KeyHash, ApplicationId>,
    by_uid: Cache<String, ApplicationId>,
    look_ups: Semaphore,
}

impl Parties {
    /// Creates an empty cache.
    pub(crate) fn new(store: Store) -> Self {
        let (by_key, by_uid) = (Cache::new(MAX_KNOWN), Cache::new(MAX_KNOWN));
        Self { store, by_key, by_uid, look_ups: Semaphore::new(MAX_LOOK_UPS) }
    }

    /// Returns the party of a request that has this credential and names this application. Returns `None` if the API
    /// key does not exist.
    ///
    /// # Errors
    /// `StoreError` if the look-up fails.
    pub(crate) async fn of(
        &self,
        credential: &Credential,
        named: Option<ApplicationRef>,
    ) -> Result<Option<Party>, StoreError> {
        Ok(match (credential, named) {
            (Credential::Key(hash), _) => self.of_key(hash).await?.map(Party::Application),
            (Credential::Admin, None) => Some(Party::Admin),
            (Credential::Admin, Some(ApplicationRef::Id(id))) => Some(Party::Application(id)),
            (Credential::Admin, Some(ApplicationRef::Uid(uid))) => {
                Some(self.of_uid(uid).await?.map_or(Party::Admin, Party::Application))
            }
        })
    }

    /// Returns the party of an event, from the cache alone.
    pub(crate) fn of_producer(&self, producer: &Producer) -> Party {
        match producer {
            Producer::Admin(application) => Party::Application(*application),
            Producer::Key(hash) => self.by_key.get(hash).map_or(Party::Stranger, Party::Application),
        }
    }

    async fn of_key(&self, hash: &KeyHash) -> Result<Option<ApplicationId>, StoreError> {
        if let Some(known) = self.by_key.get(hash) {
            return Ok(Some(known));
        }
        let _turn = self.look_ups.acquire().await.expect("the semaphore is never closed");
        let owner = api_keys::find_owner(&self.store, hash).await?;
        Ok(owner.map(|owner| {
            self.by_key.insert(*hash, owner.application_id);
            owner.application_id
        }))
    }

    async fn of_uid(&self, uid: String) -> Result<Option<ApplicationId>, StoreError> {
        if let Some(known) = self.by_uid.get(&uid) {
            return Ok(Some(known));
        }
        let _turn = self.look_ups.acquire().await.expect("the semaphore is never closed");
        let found = applications::find(&self.store, &ApplicationRef::Uid(uid.clone())).await?;
        Ok(found.map(|application| {
            self.by_uid.insert(uid, application.id);
            application.id
        }))
    }
}
