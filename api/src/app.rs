//! What all requests share.

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

/// The state of the API.
pub(crate) struct App {
    /// PostgreSQL.
    pub(crate) store: Store,
    /// Accepts what is published.
    pub(crate) acceptor: Acceptor,
    /// On whose account requests are served.
    pub(crate) parties: Arc<Parties>,
    /// Requests that are worked on, but for publishing: how many at once.
    pub(crate) work: Shares<Party>,
    /// Requests that make many deliveries at once: one at a time.
    pub(crate) fan_outs: Shares<Party>,
    /// Requests under way, whatever they wait for: how many.
    pub(crate) requests: Shares<Party>,
    /// Bytes of request bodies.
    pub(crate) bodies: Shares<Party>,
    /// Bytes of responses that are not written yet.
    pub(crate) responses: Shares<Party>,
    /// When keys were last used.
    pub(crate) key_use: KeyUse,
    /// SHA-256 of each admin token; none: see [`crate::auth`].
    pub(crate) admin_tokens: Vec<[u8; 32]>,
    /// Encrypts what endpoints keep secret.
    pub(crate) keyring: Keyring,
    /// Where endpoints may be.
    pub(crate) url_rules: UrlRules,
    /// What the endpoints of an application may be together.
    pub(crate) endpoint_quota: EndpointQuota,
}

impl Service for App {
    type Error = StoreError;

    /// Requests show how PostgreSQL is, and what a task notes besides is for the log alone.
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
