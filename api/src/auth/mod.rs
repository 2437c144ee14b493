//! Authentication and authorization.
//!
//! `Authorization: Bearer` with an API key gives access to the application of the key; with an admin token, to
//! everything.
//!
//! If no admin token is configured, the API listens on loopback only. A request without a credential to a loopback
//! host is then treated as the admin's on `/v1/applications…`. Since a page of another site can make a browser send
//! requests here, two checks guard this: the `Host` must be a loopback host, and the browser's headers must not say
//! that the request is cross-site.

pub(crate) mod key;
pub(crate) mod key_use;
mod local;
pub(crate) mod party;

use std::sync::Arc;

use http::{StatusCode, header};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use postrider_domain::ids::ApplicationId;
use postrider_store::api_keys::{self, KeyHash, KeyOwner};
use postrider_store::applications::{self, Application, ApplicationRef};
use postrider_store::audit::Actor;
use subtle::ConstantTimeEq as _;

use crate::app::App;
use crate::auth::local::{cross_site, is_cross_site, is_local_admin};
use crate::web::problem::Problem;
use crate::web::query::QueryParameters;

/// The name of the security scheme in the specification.
pub(crate) const SCHEME: &str = "bearer";

/// A scope of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Publish events.
    Publish,
    /// Read everything but secrets.
    Read,
    /// Change resources, and read secrets.
    Manage,
}

impl Scope {
    /// All scopes.
    pub(crate) const ALL: [Self; 3] = [Self::Publish, Self::Read, Self::Manage];

    /// Returns the name that the API uses.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }
}

/// The credential of a request. An API key has not been looked up yet.
#[derive(Clone)]
pub(crate) enum Credential {
    /// The admin.
    Admin,
    /// An API key, by its hash.
    Key(KeyHash),
}

/// The identified caller of a request.
#[derive(Clone)]
pub(crate) enum Caller {
    /// The admin.
    Admin,
    /// An application, through one of its API keys.
    Application(KeyOwner),
}

impl Credential {
    /// Reads the credential of a request.
    ///
    /// # Errors
    /// 401.
    pub(crate) fn of(request: &Request, app: &App) -> Result<Self, Problem> {
        let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            let is_absent = !request.headers().contains_key(header::AUTHORIZATION);
            return match is_absent && is_local_admin(request, app) {
                true if is_cross_site(request) => Err(cross_site()),
                true => Ok(Self::Admin),
                false => Err(missing()),
            };
        };
        let token = bearer_token(value.as_bytes()).ok_or_else(invalid)?;
        let hash = key::hash(token);
        let mut is_admin = subtle::Choice::from(0);
        for admin in &app.admin_tokens {
            is_admin |= admin.ct_eq(&hash);
        }
        if is_admin.into() {
            Ok(Self::Admin)
        } else if key::is_key(token) {
            Ok(Self::Key(hash))
        } else {
            Err(invalid())
        }
    }

    /// Looks up the API key.
    ///
    /// # Errors
    /// 401 if the key is unknown, expired or revoked; 503 if PostgreSQL is unavailable.
    pub(crate) async fn identify(&self, app: &App) -> Result<Caller, Problem> {
        match self {
            Self::Admin => Ok(Caller::Admin),
            Self::Key(hash) => {
                let owner = api_keys::find_owner(&app.store, hash).await?.ok_or_else(invalid)?;
                app.key_use.note(*hash);
                Ok(Caller::Application(owner))
            }
        }
    }
}

impl Caller {
    /// Returns the actor for the audit log.
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::Admin => Actor::Admin,
            Self::Application(owner) => Actor::Key { id: owner.api_key_id, prefix: owner.prefix.clone() },
        }
    }

    /// Requires that an API key has a scope.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        let scope = scope.as_str();
        match self {
            Self::Application(owner) if !owner.scopes.iter().any(|own| own == scope) => {
                Err(scope_required(scope))
            }
            _ => Ok(()),
        }
    }

    /// Requires the admin.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn require_admin(&self) -> Result<(), Problem> {
        match self {
            Self::Admin => Ok(()),
            Self::Application(_) => {
                Err(admin_required("This operation requires an admin token. API keys cannot perform it."))
            }
        }
    }

    /// Returns the application that a path or query names, if the caller has access to it.
    ///
    /// # Errors
    /// 404 if it does not exist or the caller has no access to it.
    pub(crate) async fn application(
        &self,
        app: &App,
        named: &ApplicationRef,
    ) -> Result<Application, Problem> {
        let unknown = || Problem::not_found("application_not_found", "application");
        let found = applications::find(&app.store, named).await?.ok_or_else(unknown)?;
        match self {
            Self::Application(owner) if owner.application_id != found.id => Err(unknown()),
            _ => Ok(found),
        }
    }

    /// Returns the application to list from: the one that is named, or else the key's own. Returns `None`, which
    /// means all applications, for the admin without a name.
    ///
    /// # Errors
    /// 404 if it does not exist or the caller has no access to it.
    pub(crate) async fn listed_application(
        &self,
        app: &App,
        named: Option<&ApplicationRef>,
    ) -> Result<Option<ApplicationId>, Problem> {
        match (self, named) {
            (_, Some(named)) => Ok(Some(self.application(app, named).await?.id)),
            (Self::Application(owner), None) => Ok(Some(owner.application_id)),
            (Self::Admin, None) => Ok(None),
        }
    }

    /// Returns the application to write to: the key's own, or the one that the admin must name.
    ///
    /// # Errors
    /// 422 if the admin names none; 404 if it does not exist or the caller has no access to it.
    pub(crate) async fn written_application(
        &self,
        app: &App,
        named: Option<&ApplicationRef>,
    ) -> Result<ApplicationId, Problem> {
        self.listed_application(app, named).await?.ok_or_else(|| {
            Problem::refused_field(
                "application_required",
                "application_id",
                "is required with an admin token; send the id or `uid` of the application",
            )
        })
    }
}

/// 403: the operation requires an admin token.
pub(crate) fn admin_required(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "admin_required", detail)
}

/// 403: the API key does not have this scope.
pub(crate) fn scope_required(scope: &str) -> Problem {
    let detail = format!("This API key does not have the `{scope}` scope. Use a key that has it.");
    Problem::new(StatusCode::FORBIDDEN, "scope_required", detail)
}

fn missing() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "credentials_required",
        "The request needs exactly one credential. Send one `Authorization: Bearer` header with an API key \
         or an admin token.",
    )
}

/// 401: the credential is unknown, expired or revoked.
pub(crate) fn invalid() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "credentials_invalid",
        "This credential is unknown, expired or revoked. Use a valid API key or admin token.",
    )
}

fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

macro_rules! security_extractor {
    ($type:ty, $extract:expr) => {
        impl<'a> ApiExtractor<'a> for $type {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                registry.create_security_scheme(SCHEME, scheme());
            }

            fn security_schemes() -> Vec<&'static str> {
                vec![SCHEME]
            }

            async fn from_request(
                request: &'a Request,
                _: &mut RequestBody,
                _: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                let app = request.data::<Arc<App>>().expect("every route has the state");
                let found =
                    request.data::<Result<Credential, Problem>>().expect("admission runs first and sets it");
                let credential = found.clone()?;
                let parameters = request.data::<QueryParameters>().expect("every route has them");
                if let Err(problem) = parameters.check(request) {
                    // Identify the caller first: details about a bad request are for authenticated callers only.
                    credential.identify(app).await?;
                    return Err(problem.into());
                }
                let extract: fn(Credential, Arc<App>) -> _ = $extract;
                Ok(extract(credential, app.clone()).await?)
            }
        }
    };
}

security_extractor!(Credential, |credential, _| std::future::ready(Ok::<_, Problem>(credential)));
security_extractor!(Caller, |credential, app| async move { credential.identify(&app).await });

fn scheme() -> MetaSecurityScheme {
    MetaSecurityScheme {
        ty: "http",
        description: Some(
            "An API key (`pr_…`) or an admin token. An API key gives access to its own application, within \
             its scopes: one or more of `publish`, `read` and `manage`. An admin token gives access to \
             everything. If no admin token is configured, the API listens on loopback only, and local \
             requests to `/v1/applications…` need no credential.",
        ),
        name: None,
        key_in: None,
        scheme: Some("bearer"),
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found_whatever_its_case() {
        assert_eq!(bearer_token(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer_token(b"bearer  abc "), Some(&b"abc"[..]));
        for value in [&b"Basic abc"[..], b"Bearer", b"Bearer ", b"", b"Bearerabc"] {
            assert_eq!(bearer_token(value), None);
        }
    }
}
