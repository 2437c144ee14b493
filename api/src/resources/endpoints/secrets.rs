//! `/v1/applications/{application_id}/endpoints/{endpoint_id}/secret`: the secrets that webhooks are signed with.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::EndpointId;
use postrider_secrets::secrets::{self, LiveKey, Rotated};
use postrider_secrets::signing::SigningKey;
use postrider_store::applications::ApplicationRef;
use serde::{Deserialize, Serialize};

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::endpoints::fields::signing_key;
use crate::resources::endpoints::unknown;
use crate::web::body::OptionalJsonBody;
use crate::web::check::Checks;
use crate::web::json_types::Timestamp;
use crate::web::parameter::Path;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, NOT_FOUND, Refused};
use crate::web::success::{Accepted, Found};

const DEFAULT_OVERLAP_SECONDS: i32 = 86_400;
const MAX_OVERLAP_SECONDS: i64 = 30 * 86_400;

/// The signing secret of an endpoint.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EndpointSecret {
    /// The signing algorithm: `hmac-sha256` (signatures `v1`) or `ed25519` (signatures `v1a`).
    algorithm: String,
    /// The secret: `whsec_` followed by base64, as the Standard Webhooks libraries expect it. Null for Ed25519,
    /// because the private key is never shown.
    secret: Option<String>,
    /// The Ed25519 public key: `whpk_` followed by base64. Null for other algorithms.
    public_key: Option<String>,
    /// When the secret was created.
    created_at: Timestamp,
    /// Older secrets that webhooks are still signed with, newest first.
    previous: Vec<PreviousSecret>,
}

/// A replaced secret that webhooks are still signed with.
#[derive(Debug, Object, Serialize)]
pub(crate) struct PreviousSecret {
    /// The signing algorithm: `hmac-sha256` (signatures `v1`) or `ed25519` (signatures `v1a`).
    algorithm: String,
    /// The secret: `whsec_` followed by base64. Null for Ed25519.
    secret: Option<String>,
    /// The Ed25519 public key: `whpk_` followed by base64. Null for other algorithms.
    public_key: Option<String>,
    /// When the secret was created.
    created_at: Timestamp,
    /// When the secret stops being used.
    expires_at: Timestamp,
}

/// How to rotate the secret. All fields are optional.
#[derive(Debug, Default, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateSecretRequest {
    /// Your own signing secret: `whsec_` followed by the base64 of 24 to 64 bytes. For Ed25519: `whsk_` followed by
    /// the base64 of the private key, with or without the public key appended. If absent or null, a new secret is
    /// generated.
    #[serde(default)]
    secret: Option<String>,
    /// The signing algorithm: `hmac-sha256` or `ed25519`. If absent or null, the algorithm of `secret`, or of the
    /// newest secret if there is no `secret`.
    #[oai(validator(pattern = "^(hmac-sha256|ed25519)$"))]
    #[serde(default)]
    algorithm: Option<String>,
    /// How long webhooks are signed with the older secrets as well, in seconds, from 0 to 2,592,000. With 0, the
    /// older secrets stop being used immediately. Default: 86,400 (one day).
    #[oai(validator(minimum(value = "0"), maximum(value = "2592000")))]
    #[serde(default)]
    overlap_seconds: Option<i32>,
}

impl RotateSecretRequest {
    fn check(self) -> Result<(Option<SigningKey>, Duration), Problem> {
        let mut checks = Checks::default();
        let (secret, algorithm) = (self.secret.as_deref(), self.algorithm.as_deref());
        let is_asked = secret.is_some() || algorithm.is_some();
        let key = is_asked.then(|| signing_key(&mut checks, secret, algorithm, "algorithm")).flatten();
        let overlap = self.overlap_seconds.unwrap_or(DEFAULT_OVERLAP_SECONDS);
        checks.in_range("overlap_seconds", overlap.into(), 0, MAX_OVERLAP_SECONDS);
        checks.done()?;
        Ok((key, Duration::from_secs(overlap.unsigned_abs().into())))
    }
}

impl EndpointSecret {
    /// Creates it from the live keys, newest first. Returns `None` if there are none.
    fn of(keys: Vec<LiveKey>) -> Option<Self> {
        let mut keys = keys.into_iter();
        let newest = keys.next()?;
        let previous = keys.filter_map(|old| {
            Some(PreviousSecret {
                algorithm: old.key.algorithm().to_string(),
                secret: old.key.secret(),
                public_key: old.key.public_key(),
                created_at: old.created_at.into(),
                expires_at: old.expires_at?.into(),
            })
        });
        Some(Self {
            algorithm: newest.key.algorithm().to_string(),
            secret: newest.key.secret(),
            public_key: newest.key.public_key(),
            created_at: newest.created_at.into(),
            previous: previous.collect(),
        })
    }
}

/// The operations on the secrets of endpoints.
pub(crate) struct EndpointSecrets;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Endpoints")]
impl EndpointSecrets {
    /// Get the secret of an endpoint
    ///
    /// Returns what receivers need to verify signatures. Reading the secret is recorded in the audit log. Requires
    /// the `manage` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/secret",
        method = "get",
        operation_id = "get_endpoint_secret"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
    ) -> Result<Found<EndpointSecret>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let actor = caller.actor();
        let keys = secrets::read(&app.store, &app.keyring, &actor, application, endpoint_id.0).await?;
        Ok(Found::new(EndpointSecret::of(keys).ok_or_else(unknown)?))
    }

    /// Rotate the secret of an endpoint
    ///
    /// Replaces the signing secret. From now on, webhooks are signed with the new one. During the overlap they are
    /// also signed with the older secrets, so that the receiver can switch at any time. Requires the `manage` scope.
    #[oai(
        path = "/applications/:application_id/endpoints/:endpoint_id/secret/rotate",
        method = "post",
        operation_id = "rotate_endpoint_secret"
    )]
    async fn rotate(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the endpoint.
        endpoint_id: Path<EndpointId>,
        body: OptionalJsonBody<RotateSecretRequest>,
    ) -> Result<Accepted<EndpointSecret>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let (key, overlap) = body.0.check()?;
        let whose = (application, endpoint_id.0);
        match secrets::rotate(&app.store, &app.keyring, &caller.actor(), whose, key, overlap).await? {
            Rotated::Keys(keys) => Ok(Accepted::new(EndpointSecret::of(keys).ok_or_else(unknown)?)),
            Rotated::Unknown => Err(unknown().into()),
            Rotated::TooMany => Err(Problem::new(
                StatusCode::CONFLICT,
                "too_many_secrets",
                format!(
                    "The endpoint already has {} active secrets, which is the maximum. Wait until some of \
                     them expire, or rotate with a shorter `overlap_seconds` so that they expire earlier.",
                    secrets::MAX_LIVE
                ),
            )
            .into()),
        }
    }
}
