//! On whose account a request is served: known at once, so that what one application holds can be bounded before
//! anything is paid for it.
//!
//! What is remembered here decides who shares with whom, and nothing else: a key that was revoked a moment ago is
//! still counted as its application's, and refused where it always is.

use moka::sync::Cache;
use postrider_domain::event::Producer;
use postrider_domain::ids::ApplicationId;
use postrider_store::api_keys::{self, KeyHash};
use postrider_store::applications::{self, ApplicationRef};
use postrider_store::{Store, StoreError};
use tokio::sync::Semaphore;

use crate::auth::Credential;

/// Keys and uids whose application is remembered.
const MAX_KNOWN: u64 = 100_000;
/// Look-ups of what is not remembered that may take place at once, whoever asks.
const MAX_LOOK_UPS: usize = 2;

/// Who has a share of what this process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// An application, by one of its keys or by the admin who acts for it.
    Application(ApplicationId),
    /// The admin, for nobody.
    Admin,
    /// Those of whom nothing is known.
    Stranger,
}

/// Whose each credential is, as far as it was seen.
pub(crate) struct Parties {
    store: Store,
    by_key: Cache<KeyHash, ApplicationId>,
    by_uid: Cache<String, ApplicationId>,
    look_ups: Semaphore,
}

impl Parties {
    /// Knows nobody yet.
    pub(crate) fn new(store: Store) -> Self {
        let (by_key, by_uid) = (Cache::new(MAX_KNOWN), Cache::new(MAX_KNOWN));
        Self { store, by_key, by_uid, look_ups: Semaphore::new(MAX_LOOK_UPS) }
    }

    /// The party of a request with this credential that names this application. Returns `None` if the API key does not
    /// exist.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
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

    /// On whose account an event is stored, without asking anybody.
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
        let _turn = self.look_ups.acquire().await.expect("it is never closed");
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
        let _turn = self.look_ups.acquire().await.expect("it is never closed");
        let found = applications::find(&self.store, &ApplicationRef::Uid(uid.clone())).await?;
        Ok(found.map(|application| {
            self.by_uid.insert(uid, application.id);
            application.id
        }))
    }
}
