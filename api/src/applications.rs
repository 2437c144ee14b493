//! `/v1/applications`: the tenants.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::store::api_keys::NewApiKey;
use postrider_shared::store::applications::{self, ApplicationRef, NewApplication};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::answer::{Created, Found};
use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::body::JsonBody;
use crate::check::Checks;
use crate::key::FreshKey;
use crate::page::{Cursor, Page, limit};
use crate::parameter::{InQuery, Path};
use crate::parameter_values::Limit;
use crate::problem::Problem;
use crate::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::value::{JsonObject, Timestamp};

/// A tenant: its keys, endpoints, events and deliveries are its own.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Application {
    /// Its id.
    id: Uuid,
    /// Your own name for it, accepted wherever its id is; null where it has none.
    uid: Option<String>,
    /// Its name, for people.
    name: String,
    /// A JSON object of your own.
    metadata: JsonObject,
    /// False: it may not publish.
    is_active: bool,
    /// When it was created.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
}

/// An application that was just created.
#[derive(Debug, Object, Serialize)]
pub(crate) struct CreatedApplication {
    #[oai(flatten)]
    #[serde(flatten)]
    application: Application,
    /// Its first API key, with all scopes. It is shown here and never again.
    api_key: String,
}

/// An application that is to be created.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApplicationRequest {
    /// Its name, for people.
    #[oai(validator(min_length = 1, max_length = 255))]
    name: String,
    /// Your own name for it, such as your customer's id; unique over the installation. Letters, digits and
    /// `. _ - : @ + | ~ =`; no full stop at its beginning, and not a UUID.
    #[oai(validator(min_length = 1, max_length = 255))]
    #[serde(default)]
    uid: Option<String>,
    /// A JSON object of your own, up to 16 KiB.
    #[serde(default)]
    metadata: Option<JsonObject>,
}

impl From<applications::Application> for Application {
    fn from(stored: applications::Application) -> Self {
        Self {
            id: stored.id.0,
            uid: stored.uid,
            name: stored.name,
            metadata: JsonObject::rendered(stored.metadata),
            is_active: stored.is_active,
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
            checks.text("uid", crate::parameter_values::check_uid(uid));
        }
        let metadata = checks.metadata(self.metadata);
        checks.done()?;
        Ok(NewApplication { uid: self.uid, name: self.name, metadata })
    }
}

/// The operations on applications.
pub(crate) struct Applications;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Applications")]
impl Applications {
    /// Create an application
    ///
    /// Answers its first API key, the only time that it is shown. For the admin.
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
        match applications::create(&app.store, &application, &first_key).await {
            Ok((created, _)) => {
                let location = format!("/v1/applications/{}", created.id);
                Ok(Created::at(
                    location,
                    CreatedApplication { application: created.into(), api_key: key.text },
                ))
            }
            Err(error) if error.is_unique_violation() => Err(Problem::new(
                http::StatusCode::CONFLICT,
                "uid_taken",
                "Another application has this `uid`. Choose another one, or use that application.",
            )
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    /// List applications
    ///
    /// Newest first. For the admin.
    #[oai(path = "/applications", method = "get", operation_id = "list_applications")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Application>>, Refused<{ INVALID }>> {
        caller.require_admin()?;
        let cursor = cursor.0.map(|cursor| postrider_shared::ids::ApplicationId(cursor.0));
        let page = applications::list(&app.store, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }

    /// Get an application
    ///
    /// For the admin, and for the application's own keys with the scope `read`.
    #[oai(path = "/applications/:application_id", method = "get", operation_id = "get_application")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the application, or its `uid`.
        application_id: Path<ApplicationRef>,
    ) -> Result<Found<Application>, Refused<{ NOT_FOUND }>> {
        caller.require(Scope::Read)?;
        Ok(Found::new(caller.application(&app, &application_id.0).await?))
    }
}
