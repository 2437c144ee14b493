//! The state that all requests share.

use std::sync::Arc;

use poem_openapi::Tags;
use postrider_domain::share::Shares;
use postrider_runtime::every::Service;
use postrider_secrets::endpoints::EndpointQuota;
use postrider_secrets::keyring::Keyring;
use postrider_store::{Store, StoreError};

use crate::accept::Acceptor;
use crate::auth::key_use::KeyUse;
use crate::auth::party::{Parties, Party};
use crate::resources::endpoints::check::UrlRules;

/// The shared state of the API.
pub(crate) struct App {
    /// The pool for requests.
    pub(crate) store: Store,
    /// Accepts events.
    pub(crate) acceptor: Acceptor,
    /// Maps producers to the application that their requests count for.
    pub(crate) parties: Arc<Parties>,
    /// Limits the requests in progress, apart from those that publish.
    pub(crate) work: Shares<Party>,
    /// Limits requests that make many deliveries to one at a time.
    pub(crate) fan_outs: Shares<Party>,
    /// Limits the requests in flight, including those that only wait.
    pub(crate) requests: Shares<Party>,
    /// Limits the bytes of request bodies in memory.
    pub(crate) bodies: Shares<Party>,
    /// Limits the bytes of responses that clients have not read yet.
    pub(crate) responses: Shares<Party>,
    /// When each API key was last used, until the next flush to the database.
    pub(crate) key_use: KeyUse,
    /// SHA-256 of each admin token. If there is none, local requests need no credential: see [`crate::auth`].
    pub(crate) admin_tokens: Vec<[u8; 32]>,
    /// Encrypts the secrets of endpoints.
    pub(crate) keyring: Keyring,
    /// Which endpoint URLs are allowed.
    pub(crate) url_rules: UrlRules,
    /// The limits on the endpoints of one application.
    pub(crate) endpoint_quota: EndpointQuota,
}

impl Service for App {
    type Error = StoreError;

    /// Does nothing: health follows the requests, and the task runner logs the error.
    async fn failed(&self, _: StoreError) {}
}

/// How the specification groups operations.
#[derive(Tags)]
pub(crate) enum Tag {
    /// An application is a tenant with its own API keys, endpoints, events and deliveries.
    Applications,
    /// API keys authenticate an application.
    #[oai(rename = "API keys")]
    ApiKeys,
    /// An endpoint is a URL that webhooks are sent to, with its settings.
    Endpoints,
    /// Events are published by producers and delivered to the endpoints that match them.
    Events,
    /// The catalogue of an application's event types, with their schemas.
    #[oai(rename = "Event types")]
    EventTypes,
    /// A delivery is one event that is delivered to one endpoint, in one or more attempts.
    Deliveries,
    /// The audit log records who changed what.
    #[oai(rename = "Audit log")]
    AuditLog,
    /// A replay sends many events again, or reopens many deliveries.
    Replays,
}
