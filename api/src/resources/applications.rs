//! `/v1/applications`: the applications, which are the tenants.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{Object, OpenApi};
use postrider_store::StoreError;
use postrider_store::api_keys::NewApiKey;
use postrider_store::applications::{self, ApplicationRef, NewApplication, Update};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::key::FreshKey;
use crate::auth::{self, Caller, Scope};
use crate::web::body::JsonBody;
use crate::web::check::{Checks, set};
use crate::web::json_types::{JsonObject, Timestamp};
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::{Limit, check_uid};
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::success::{Created, Done, Found};

/// A tenant, with its own API keys, endpoints, events and deliveries.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Application {
    /// The unique id of the application.
    id: Uuid,
    /// Your own identifier for the application. It can be used wherever the id is accepted. Null if none is set.
    uid: Option<String>,
    /// A name for people.
    name: String,
    /// A JSON object for your own use.
    metadata: JsonObject,
    /// If false, the application cannot publish events.
    is_active: bool,
    /// Maximum number of events per second that the application may publish. Null if there is no limit.
    ingest_rate_limit: Option<i32>,
    /// If true, events whose type is not in the application's catalogue of event types are refused.
    strict_event_types: bool,
    /// When the application was created.
    created_at: Timestamp,
    /// When the application was last updated.
    updated_at: Timestamp,
}

/// A new application, including its first API key.
#[derive(Debug, Object, Serialize)]
pub(crate) struct CreatedApplication {
    #[oai(flatten)]
    #[serde(flatten)]
    application: Application,
    /// The first API key of the application, with all scopes. It is shown only in this response.
    api_key: String,
}

/// The application to create.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApplicationRequest {
    /// A name for people.
    #[oai(validator(min_length = 1, max_length = 255))]
    name: String,
    /// Your own identifier for the application, such as the id of your customer. It must be unique across the
    /// installation. Letters, digits and `. _ - : @ + | ~ =` are allowed. It must not start with a period, and must
    /// not be a UUID.
    #[oai(validator(min_length = 1, max_length = 255))]
    #[serde(default)]
    uid: Option<String>,
    /// A JSON object for your own use, up to 16 KiB. Default: empty.
    #[serde(default)]
    metadata: Option<JsonObject>,
    /// Maximum number of events per second that the application may publish, from 1 to 1,000,000. Events above the
    /// limit are refused with 429. If absent or null, there is no limit.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
    #[serde(default)]
    ingest_rate_limit: Option<i32>,
    /// If true, events whose type is not in the application's catalogue of event types are refused. Default: false.
    #[serde(default)]
    strict_event_types: Option<bool>,
}

/// The fields to change. Absent fields keep their value.
#[derive(Debug, Default, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateApplicationRequest {
    /// A name for people.
    #[oai(validator(min_length = 1, max_length = 255))]
    #[serde(default)]
    name: MaybeUndefined<String>,
    /// Your own identifier for the application. Null removes it. Only an admin token can change this.
    #[oai(validator(min_length = 1, max_length = 255))]
    #[serde(default)]
    uid: MaybeUndefined<String>,
    /// A JSON object for your own use, up to 16 KiB. It replaces the current one. Null makes it empty.
    #[serde(default)]
    metadata: MaybeUndefined<JsonObject>,
    /// If false, the application cannot publish events. Events that were already accepted are still delivered. Only
    /// an admin token can change this.
    #[serde(default)]
    is_active: MaybeUndefined<bool>,
    /// Maximum number of events per second that the application may publish, from 1 to 1,000,000. Events above the
    /// limit are refused with 429. Null removes the limit. Only an admin token can change this.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
    #[serde(default)]
    ingest_rate_limit: MaybeUndefined<i32>,
    /// If true, events whose type is not in the application's catalogue of event types are refused. Null means false.
    #[serde(default)]
    strict_event_types: MaybeUndefined<bool>,
}

impl From<applications::Application> for Application {
    fn from(stored: applications::Application) -> Self {
        Self {
            id: stored.id.0,
            uid: stored.uid,
            name: stored.name,
            metadata: JsonObject::rendered(stored.metadata),
            is_active: stored.is_active,
            ingest_rate_limit: stored.ingest_rate_limit,
            strict_event_types: stored.strict_event_types,
            created_at: stored.created_at.into(),
            updated_at: stored.updated_at.into(),
        }
    }
}

impl CreateApplicationRequest {
    fn check(self) -> Result<NewApplication, Problem> {
        let mut checks = Checks::default();
        checks.name("name", &self.name);
        if let Some(uid) = &self.uid {
            checks.value("uid", check_uid(uid));
        }
        let metadata = checks.metadata(self.metadata);
        if let Some(rate) = self.ingest_rate_limit {
            check_rate(&mut checks, rate);
        }
        checks.done()?;
        Ok(NewApplication {
            uid: self.uid,
            name: self.name,
            metadata,
            ingest_rate_limit: self.ingest_rate_limit,
            strict_event_types: self.strict_event_types.unwrap_or(false),
        })
    }
}

impl UpdateApplicationRequest {
    /// Applies the given fields and reports all mistakes at once. An API key may send a field that only the admin can
    /// change, if the value is unchanged.
    fn apply(self, current: &applications::Application, caller: &Caller) -> Result<Update, Problem> {
        let mut checks = Checks::default();
        let mut update = Update {
            uid: current.uid.clone(),
            name: current.name.clone(),
            metadata: current.metadata.clone(),
            is_active: current.is_active,
            ingest_rate_limit: current.ingest_rate_limit,
            strict_event_types: current.strict_event_types,
        };
        if let Some(name) = checks.not_null("name", self.name) {
            checks.name("name", &name);
            update.name = name;
        }
        set(&mut update.uid, None, self.uid, |uid| {
            checks.value("uid", check_uid(&uid));
            Some(uid)
        });
        set(&mut update.metadata, "{}".to_owned(), self.metadata, |json| checks.metadata(Some(json)));
        if let Some(is_active) = checks.not_null("is_active", self.is_active) {
            update.is_active = is_active;
        }
        set(&mut update.ingest_rate_limit, None, self.ingest_rate_limit, |rate| {
            check_rate(&mut checks, rate);
            Some(rate)
        });
        set(&mut update.strict_event_types, false, self.strict_event_types, |is_strict| is_strict);
        let is_same = (&update.uid, update.is_active, update.ingest_rate_limit)
            == (&current.uid, current.is_active, current.ingest_rate_limit);
        if matches!(caller, Caller::Application(_)) && !is_same {
            return Err(auth::admin_required(
                "Only an admin token can change `uid`, `is_active` and `ingest_rate_limit`. Leave these \
                 fields out, or use an admin token.",
            ));
        }
        checks.done()?;
        Ok(update)
    }
}

fn check_rate(checks: &mut Checks, rate: i32) {
    checks.in_range("ingest_rate_limit", rate.into(), 1, 1_000_000);
}

fn unknown() -> Problem {
    Problem::not_found("application_not_found", "application")
}

fn uid_taken() -> Problem {
    Problem::new(
        http::StatusCode::CONFLICT,
        "uid_taken",
        "Another application already has this `uid`. Choose a different one, or use the existing application.",
    )
}

/// Why an application was not changed.
enum NotChanged {
    Refused(Problem),
    Store(StoreError),
}

impl From<StoreError> for NotChanged {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The operations on applications.
pub(crate) struct Applications;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Applications")]
impl Applications {
    /// Create an application
    ///
    /// Creates an application and its first API key. The response contains the key. This is the only time it is
    /// shown. Requires an admin token.
    #[oai(path = "/applications", method = "post", operation_id = "create_application")]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        body: JsonBody<CreateApplicationRequest>,
    ) -> Result<Created<CreatedApplication>, Refused<{ BODY | CONFLICT }>> {
        caller.require_admin()?;
        let application = body.0.check()?;
        let key = FreshKey::generate();
        let first_key = NewApiKey {
            name: "default".to_owned(),
            prefix: key.prefix,
            hash: key.hash,
            scopes: Scope::ALL.iter().map(|scope| scope.as_str().to_owned()).collect(),
            expires_at: None,
        };
        match applications::create(&app.store, &caller.actor(), &application, &first_key).await {
            Ok((created, _)) => {
                let location = format!("/v1/applications/{}", created.id);
                Ok(Created::at(
                    location,
                    CreatedApplication { application: created.into(), api_key: key.text },
                ))
            }
            Err(error) if error.is_unique_violation() => Err(uid_taken().into()),
            Err(error) => Err(error.into()),
        }
    }

    /// List applications
    ///
    /// Returns all applications, newest first. Requires an admin token.
    #[oai(path = "/applications", method = "get", operation_id = "list_applications")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Application>>, Refused<{ INVALID }>> {
        caller.require_admin()?;
        let page = applications::list(&app.store, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }

    /// Get an application
    ///
    /// Returns an application. Requires an admin token, or an API key of the application with the `read` scope.
    #[oai(path = "/applications/:application_id", method = "get", operation_id = "get_application")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
    ) -> Result<Found<Application>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Read)?;
        Ok(Found::new(caller.application(&app, &application_id.0).await?))
    }

    /// Update an application
    ///
    /// Updates an application. Absent fields keep their value. Requires an admin token, or an API key of the
    /// application with the `manage` scope. An API key can change `name`, `metadata` and `strict_event_types`; the
    /// other fields are accepted only if their value is unchanged.
    #[oai(path = "/applications/:application_id", method = "patch", operation_id = "update_application")]
    async fn update(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
        body: JsonBody<UpdateApplicationRequest>,
    ) -> Result<Found<Application>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.application(&app, &application_id.0).await?.id;
        let change =
            |current: &applications::Application| body.0.apply(current, &caller).map_err(NotChanged::Refused);
        match applications::update(&app.store, &caller.actor(), application, change).await {
            Ok(updated) => Ok(Found::new(updated.ok_or_else(unknown)?)),
            Err(NotChanged::Refused(problem)) => Err(problem.into()),
            Err(NotChanged::Store(error)) if error.is_unique_violation() => Err(uid_taken().into()),
            Err(NotChanged::Store(error)) => Err(error.into()),
        }
    }

    /// Delete an application
    ///
    /// Deletes an application. This takes effect immediately: the API keys stop working, endpoints no longer match
    /// events, and open deliveries are not sent. Webhooks that are already being sent are completed. The `uid` can be
    /// used again. All data of the application is then removed in the background, which can take minutes: endpoints,
    /// events, deliveries, attempts and keys. The audit log is kept. Requires an admin token.
    #[oai(path = "/applications/:application_id", method = "delete", operation_id = "delete_application")]
    async fn delete(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application.
        application_id: Path<ApplicationRef>,
    ) -> Result<Done, Refused<{ NOT_FOUND }>> {
        let application = caller.application(&app, &application_id.0).await?.id;
        caller.require_admin()?;
        if applications::delete(&app.store, &caller.actor(), application).await? {
            Ok(Done)
        } else {
            Err(unknown().into())
        }
    }
}
