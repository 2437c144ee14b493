//! Who calls, and what they may do.
//!
//! `Authorization: Bearer` with an API key reaches its own application; with an admin token, everything.
//! Where no admin token is configured the API listens on loopback only, and a request with no credential,
//! addressed to a loopback host, is the admin on `/v1/applications…`. A page of a foreign site can make a browser send
//! requests here: under a name of its own, which the host shows, or across sites, which the browser says.

pub(crate) mod key;
pub(crate) mod key_use;
pub(crate) mod party;

use std::net::IpAddr;
use std::sync::Arc;

use http::{StatusCode, header};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use postrider_shared::ids::ApplicationId;
use postrider_shared::store::api_keys::{self, KeyHash, KeyOwner};
use postrider_shared::store::applications::{self, Application, ApplicationRef};
use postrider_shared::store::audit::Actor;
use subtle::ConstantTimeEq as _;

use crate::app::App;
use crate::web::problem::Problem;
use crate::web::query::QueryParameters;

/// The name of the security scheme in the specification.
pub(crate) const SCHEME: &str = "bearer";

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Post events.
    Publish,
    /// Read everything but secrets.
    Read,
    /// Change things, and read secrets.
    Manage,
}

impl Scope {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Publish, Self::Read, Self::Manage];

    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }
}

/// What was sent to prove who calls. A key was not looked up yet.
#[derive(Clone)]
pub(crate) enum Credential {
    /// The admin.
    Admin,
    /// Whoever holds the key of this hash.
    Key(KeyHash),
}

/// Who calls.
#[derive(Clone)]
pub(crate) enum Caller {
    /// The admin.
    Admin,
    /// An application, by one of its keys.
    Application(KeyOwner),
}

impl Credential {
    /// What a request brings.
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

    /// Looks the key up.
    ///
    /// # Errors
    /// 401 where it is unknown, expired or revoked; 503.
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
    /// How the audit log names it.
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::Admin => Actor::Admin,
            Self::Application(owner) => Actor::Key { id: owner.api_key_id, prefix: owner.prefix.clone() },
        }
    }

    /// Refuses keys without a scope.
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

    /// Refuses everybody but the admin.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn require_admin(&self) -> Result<(), Problem> {
        match self {
            Self::Admin => Ok(()),
            Self::Application(_) => Err(admin_required("Only the admin token may do this.")),
        }
    }

    /// The application that a path or a query names, where the caller may act for it.
    ///
    /// # Errors
    /// 404 where there is none, or it is another's.
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

    /// The application to list from: the key's own, or the one that the admin names, or all.
    ///
    /// # Errors
    /// 404 where there is none, or it is another's.
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

    /// The application to write to: the key's own, or the one that the admin must name.
    ///
    /// # Errors
    /// 422 where the admin names none; 404 where there is none, or it is another's.
    pub(crate) async fn written_application(
        &self,
        app: &App,
        named: Option<&ApplicationRef>,
    ) -> Result<ApplicationId, Problem> {
        self.listed_application(app, named).await?.ok_or_else(|| {
            Problem::refused_field(
                "application_required",
                "application_id",
                "must name the application that the admin acts for, by id or uid",
            )
        })
    }
}

/// 403: this is not for keys.
pub(crate) fn admin_required(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "admin_required", detail)
}

/// 403: the key has not this scope.
pub(crate) fn scope_required(scope: &str) -> Problem {
    let detail = format!("This API key has not the scope `{scope}`. Use one that has.");
    Problem::new(StatusCode::FORBIDDEN, "scope_required", detail)
}

fn missing() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "credentials_required",
        "Send `Authorization: Bearer` with an API key or an admin token, once.",
    )
}

/// 401: the credential is unknown, expired or revoked.
pub(crate) fn invalid() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "credentials_invalid",
        "This credential is unknown, expired or revoked. Use another API key or admin token.",
    )
}

fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn is_local_admin(request: &Request, app: &App) -> bool {
    let path = request.original_uri().path();
    let is_applications = path == "/v1/applications" || path.starts_with("/v1/applications/");
    app.admin_tokens.is_empty() && is_applications && host(request).is_some_and(is_loopback_host)
}

fn host(request: &Request) -> Option<&str> {
    request.header(header::HOST).or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
}

/// True for a request that a page of another origin makes, as far as the browser says so (Fetch Metadata, and `Origin`
/// of RFC 6454). Swagger UI is of the same origin; what is no browser says nothing.
fn is_cross_site(request: &Request) -> bool {
    let own = host(request).unwrap_or_default();
    let is_own = |origin: &[u8]| {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(own.as_bytes()))
    };
    let headers = request.headers();
    let mut sites = headers.get_all("sec-fetch-site").iter();
    let mut origins = headers.get_all(header::ORIGIN).iter();
    sites.any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
        || origins.any(|origin| !is_own(origin.as_bytes()))
}

/// 403: without a credential, nothing is done for pages of other sites.
fn cross_site() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "cross_site_request",
        "This request comes from a page of another site. Without a credential such requests are refused: send \
         `Authorization: Bearer`.",
    )
}

/// True for `localhost`, `127.0.0.0/8` and `[::1]`, with or without a port.
fn is_loopback_host(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    !host.contains('@')
        && (name.eq_ignore_ascii_case("localhost")
            || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
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
                let app = request.data::<Arc<App>>().expect("the state is given to every route");
                let found =
                    request.data::<Result<Credential, Problem>>().expect("every request is admitted first");
                let credential = found.clone()?;
                let parameters = request.data::<QueryParameters>().expect("they are given to every route");
                if let Err(problem) = parameters.check(request) {
                    // What is wrong with a request is not told to strangers.
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
            "An API key (`pr_…`), which reaches its own application and has the scopes `publish`, `read` and \
             `manage` or some of them; or an admin token, which reaches everything.",
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
    fn only_loopback_hosts_are_local() {
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:8000"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "10.0.0.1:8000",
            "x@localhost",
            "::1",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn what_a_page_of_another_origin_sends_is_told_from_the_rest() {
        let is_refused = |name: &str, value: &str| {
            is_cross_site(&Request::builder().header("host", "localhost:8000").header(name, value).finish())
        };
        for (name, value) in [
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
            ("origin", "http://localhost:8000"),
            ("origin", "http://LOCALHOST:8000"),
            ("referer", "https://example.com/"),
        ] {
            assert!(!is_refused(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", ""),
            ("origin", "null"),
            ("origin", "http://localhost:3000"),
            ("origin", "http://127.0.0.1:8000"),
            ("origin", "https://example.com"),
            ("origin", ""),
        ] {
            assert!(is_refused(name, value), "{name}: {value}");
        }
    }

    #[test]
    fn a_bearer_token_is_found_whatever_its_case() {
        assert_eq!(bearer_token(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer_token(b"bearer  abc "), Some(&b"abc"[..]));
        for value in [&b"Basic abc"[..], b"Bearer", b"Bearer ", b"", b"Bearerabc"] {
            assert_eq!(bearer_token(value), None);
        }
    }
}
