//! `/v1/applications/{application_id}/api-keys`: the API keys of an application.

use std::sync::Arc;

use chrono::Utc;
use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::ApiKeyId;
use postrider_store::api_keys::{self, NewApiKey};
use postrider_store::applications::ApplicationRef;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::key::FreshKey;
use crate::auth::{Caller, Scope};
use crate::web::body::JsonBody;
use crate::web::check::Checks;
use crate::web::json_types::Timestamp;
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::success::{Created, Done, Found};

/// An API key without the key itself, which is never shown again.
#[derive(Debug, Object, Serialize)]
pub(crate) struct ApiKey {
    /// The unique id of the key.
    id: Uuid,
    /// A name for people.
    name: String,
    /// The first characters of the key, to identify it by.
    prefix: String,
    /// What the key may do: one or more of `publish`, `read` and `manage`.
    scopes: Vec<String>,
    /// When the key expires. Null if it never expires.
    expires_at: Option<Timestamp>,
    /// When the key was last used, recorded with a delay of up to 30 seconds. Null if it was never used.
    last_used_at: Option<Timestamp>,
    /// When the key was created.
    created_at: Timestamp,
}

/// A new API key, including the key itself.
#[derive(Debug, Object, Serialize)]
pub(crate) struct CreatedApiKey {
    #[oai(flatten)]
    #[serde(flatten)]
    key: ApiKey,
    /// The key itself. It is shown only in this response.
    api_key: String,
}

/// The API key to create.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKeyRequest {
    /// A name for people.
    #[oai(validator(min_length = 1, max_length = 255))]
    name: String,
    /// What the key may do: one or more of `publish` (publish events), `read` (read everything except secrets) and
    /// `manage` (make changes, and read secrets and the audit log). If absent or null, the new key gets all scopes of
    /// the credential that creates it. An API key can only grant scopes that it has itself.
    #[oai(validator(min_items = 1, max_items = 3))]
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// When the key expires. Must be in the future. If absent or null, the key never expires.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

impl From<api_keys::ApiKey> for ApiKey {
    fn from(stored: api_keys::ApiKey) -> Self {
        Self {
            id: stored.id.0,
            name: stored.name,
            prefix: stored.prefix,
            scopes: stored.scopes,
            expires_at: stored.expires_at.map(Into::into),
            last_used_at: stored.last_used_at.map(Into::into),
            created_at: stored.created_at.into(),
        }
    }
}

impl CreateApiKeyRequest {
    fn check(self, caller: &Caller, key: &FreshKey) -> Result<NewApiKey, Problem> {
        let mut checks = Checks::default();
        checks.name("name", &self.name);
        let own: Vec<String> = match caller {
            Caller::Admin => Scope::ALL.iter().map(|scope| scope.as_str().to_owned()).collect(),
            Caller::Application(owner) => owner.scopes.clone(),
        };
        let mut scopes = self.scopes.unwrap_or_else(|| own.clone());
        let is_known = |scope: &String| Scope::ALL.iter().any(|known| known.as_str() == scope);
        if !(1..=Scope::ALL.len()).contains(&scopes.len()) || !scopes.iter().all(is_known) {
            checks.mistake("scopes", "must contain 1 to 3 of `publish`, `read` and `manage`");
        }
        let now = Utc::now();
        if self.expires_at.is_some_and(|at| at.0 <= now) {
            checks.mistake("expires_at", "must be in the future");
        }
        checks.done()?;
        if let Some(scope) = scopes.iter().find(|scope| !own.contains(scope)) {
            let detail = format!(
                "This API key cannot grant the `{scope}` scope, which it does not have itself. Use a key \
                 that has it."
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, "scope_required", detail));
        }
        scopes.sort();
        scopes.dedup();
        Ok(NewApiKey {
            name: self.name,
            prefix: key.prefix.clone(),
            hash: key.hash,
            scopes,
            expires_at: self.expires_at.map(|at| at.0),
        })
    }
}

fn unknown() -> Problem {
    Problem::not_found("api_key_not_found", "API key")
}

/// The operations on API keys.
pub(crate) struct ApiKeys;

#[OpenApi(prefix_path = "/v1", tag = "Tag::ApiKeys")]
impl ApiKeys {
    /// Create an API key
    ///
    /// Creates an API key for the application. The response contains the key. This is the only time it is shown. An
    /// application can have up to 100 keys, including expired ones. Requires the `manage` scope.
    #[oai(path = "/applications/:application_id/api-keys", method = "post", operation_id = "create_api_key")]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        body: JsonBody<CreateApiKeyRequest>,
    ) -> Result<Created<CreatedApiKey>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?;
        let fresh = FreshKey::generate();
        let key = body.0.check(&caller, &fresh)?;
        match api_keys::create(&app.store, &caller.actor(), application.id, &key).await? {
            api_keys::Created::Key(created) => {
                let location = format!("/v1/applications/{}/api-keys/{}", application.id, created.id);
                Ok(Created::at(location, CreatedApiKey { key: (*created).into(), api_key: fresh.text }))
            }
            api_keys::Created::TooMany => Err(Problem::new(
                StatusCode::CONFLICT,
                "too_many_api_keys",
                format!(
                    "The application already has {} API keys, which is the maximum. Delete keys that are no \
                     longer used, then try again.",
                    api_keys::MAX_KEYS
                ),
            )
            .into()),
            api_keys::Created::UnknownApplication => {
                Err(Problem::not_found("application_not_found", "application").into())
            }
        }
    }

    /// List API keys
    ///
    /// Returns the API keys of the application, newest first. Only the first characters of each key are shown.
    /// Requires the `read` scope.
    #[oai(path = "/applications/:application_id/api-keys", method = "get", operation_id = "list_api_keys")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<ApiKey>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?;
        let page = api_keys::list(&app.store, application.id, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }

    /// Get an API key
    ///
    /// Returns an API key without the key itself. Requires the `read` scope.
    #[oai(
        path = "/applications/:application_id/api-keys/:api_key_id",
        method = "get",
        operation_id = "get_api_key"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the API key.
        api_key_id: Path<ApiKeyId>,
    ) -> Result<Found<ApiKey>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?;
        let key = api_keys::get(&app.store, application.id, api_key_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(key))
    }

    /// Revoke an API key
    ///
    /// Deletes an API key. It stops working immediately. A key can revoke itself. Requires the `manage` scope.
    #[oai(
        path = "/applications/:application_id/api-keys/:api_key_id",
        method = "delete",
        operation_id = "delete_api_key"
    )]
    async fn delete(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        /// The id of the API key.
        api_key_id: Path<ApiKeyId>,
    ) -> Result<Done, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?;
        if api_keys::delete(&app.store, &caller.actor(), application.id, api_key_id.0).await? {
            Ok(Done)
        } else {
            Err(unknown().into())
        }
    }
}
