//! `/v1/applications/{application_id}/api-keys`: what an application proves itself with.

use std::sync::Arc;

use chrono::Utc;
use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::ids::ApiKeyId;
use postrider_shared::store::api_keys::{self, NewApiKey};
use postrider_shared::store::applications::ApplicationRef;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::key::FreshKey;
use crate::auth::{Caller, Scope};
use crate::web::answer::{Created, Done, Found};
use crate::web::body::JsonBody;
use crate::web::check::Checks;
use crate::web::page::{Cursor, Page, limit};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::value::Timestamp;

/// An API key, as far as it can be shown.
#[derive(Debug, Object, Serialize)]
pub(crate) struct ApiKey {
    /// Its id.
    id: Uuid,
    /// Its name, for people.
    name: String,
    /// Its first characters, to recognise it by.
    prefix: String,
    /// What it may do: some of `publish`, `read`, `manage`.
    scopes: Vec<String>,
    /// When it ends; null: never.
    expires_at: Option<Timestamp>,
    /// When it was last used, to within half a minute; null: not yet.
    last_used_at: Option<Timestamp>,
    /// When it was created.
    created_at: Timestamp,
}

/// An API key that was just created.
#[derive(Debug, Object, Serialize)]
pub(crate) struct CreatedApiKey {
    #[oai(flatten)]
    #[serde(flatten)]
    key: ApiKey,
    /// The key itself. It is shown here and never again.
    api_key: String,
}

/// An API key that is to be created.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKeyRequest {
    /// Its name, for people.
    #[oai(validator(min_length = 1, max_length = 255))]
    name: String,
    /// What it may do: some of `publish` (post events), `read` (read everything but secrets) and `manage`
    /// (change things, read secrets). Absent or null: all that its creator may. A key cannot give what it
    /// has not.
    #[oai(validator(min_items = 1, max_items = 3))]
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// When it ends, in the future. Absent or null: never.
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
            checks.mistake("scopes", "must be some of `publish`, `read`, `manage`, each once");
        }
        let now = Utc::now();
        if self.expires_at.is_some_and(|at| at.0 <= now) {
            checks.mistake("expires_at", "must lie in the future");
        }
        checks.done()?;
        if let Some(scope) = scopes.iter().find(|scope| !own.contains(scope)) {
            let detail =
                format!("This API key has not the scope `{scope}` itself, so that it cannot give it.");
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
    /// Answers the key, the only time that it is shown. An application has 100 keys at most, expired ones included.
    /// Needs the scope `manage`.
    #[oai(path = "/applications/:application_id/api-keys", method = "post", operation_id = "create_api_key")]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
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
                    "The application has {} API keys, as many as it may have. Delete some first.",
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
    /// Newest first, by their first characters. Needs the scope `read`.
    #[oai(path = "/applications/:application_id/api-keys", method = "get", operation_id = "list_api_keys")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
        application_id: Path<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<ApiKey>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.application(&app, &application_id.0).await?;
        let cursor = cursor.0.map(|cursor| ApiKeyId(cursor.0));
        let page = api_keys::list(&app.store, application.id, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }

    /// Get an API key
    ///
    /// What can be shown of it. Needs the scope `read`.
    #[oai(
        path = "/applications/:application_id/api-keys/:api_key_id",
        method = "get",
        operation_id = "get_api_key"
    )]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
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
    /// Takes effect at once, also for the key that asks for it. Needs the scope `manage`.
    #[oai(
        path = "/applications/:application_id/api-keys/:api_key_id",
        method = "delete",
        operation_id = "delete_api_key"
    )]
    async fn delete(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
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
