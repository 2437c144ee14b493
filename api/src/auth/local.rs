//! The local admin, who needs no credential.

use std::net::IpAddr;

use http::{StatusCode, header};
use poem::Request;

use crate::app::App;
use crate::web::problem::Problem;

/// Returns true if a request without a credential is treated as the admin's, because the API listens on loopback
/// only.
pub(super) fn is_local_admin(request: &Request, app: &App) -> bool {
    let path = request.original_uri().path();
    let is_applications = path == "/v1/applications" || path.starts_with("/v1/applications/");
    app.admin_tokens.is_empty() && is_applications && host(request).is_some_and(is_loopback_host)
}

fn host(request: &Request) -> Option<&str> {
    request.header(header::HOST).or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
}

/// Returns true if the browser's headers say that a page of another origin made the request (Fetch Metadata, and
/// `Origin` of RFC 6454). Swagger UI has the same origin, and clients that are not browsers send neither header.
pub(super) fn is_cross_site(request: &Request) -> bool {
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

/// 403: a page of another site made the request without a credential.
pub(super) fn cross_site() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "cross_site_request",
        "This request was made by a page of another site, which is only allowed with a credential. Send \
         `Authorization: Bearer` with an admin token or an API key.",
    )
}

/// Returns true for `localhost`, `127.0.0.0/8` and `[::1]`, with or without a port.
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
}
