//! `/openapi.json` and `/docs`: the specification, and Swagger UI, which is built into the program and works without
//! internet access.

use poem::endpoint::make_sync;
use poem::{Response, Route, get};
use poem_openapi::OpenApiService;

/// Everything is served from here, and the browser may load nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; font-src data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Postrider API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<noscript>This page needs JavaScript. The specification itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"#;

const START: &str = r##"SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"##;

/// Adds the routes of the specification and of Swagger UI.
pub(crate) fn add(routes: Route, specification: String) -> Route {
    let (style, script) = swagger_ui();
    routes
        .at(
            "/",
            get(make_sync(|_| {
                Response::builder().status(http::StatusCode::FOUND).header("location", "/docs").finish()
            })),
        )
        .at("/openapi.json", get(serve("application/json", specification, "no-cache")))
        .at("/docs", get(serve("text/html; charset=utf-8", PAGE.to_owned(), "no-cache")))
        .at("/docs/start.js", get(serve("text/javascript; charset=utf-8", START.to_owned(), "no-cache")))
        .at("/docs/swagger-ui.css", get(serve("text/css; charset=utf-8", style, "max-age=86400")))
        .at("/docs/swagger-ui.js", get(serve("text/javascript; charset=utf-8", script, "max-age=86400")))
}

fn serve(content_type: &'static str, text: String, cache: &'static str) -> impl poem::Endpoint + 'static {
    let bytes = bytes::Bytes::from(text);
    make_sync(move |_| {
        Response::builder()
            .content_type(content_type)
            .header("cache-control", cache)
            .header("content-security-policy", POLICY)
            .body(bytes.clone())
    })
}

/// Extracts the style and the script from the Swagger UI page of poem-openapi. That page itself cannot be used: it
/// would show poem's own document, and it needs inline scripts.
fn swagger_ui() -> (String, String) {
    let page = OpenApiService::new((), "", "").swagger_ui_html();
    let between = |start: &str, end: &str| {
        let (_, rest) = page.split_once(start)?;
        rest.split_once(end).map(|(text, _)| text.to_owned())
    };
    let style = between("<style charset=\"UTF-8\">", "</style>");
    // The script may contain the end tag in a string. The real one is the last before `</head>`.
    let script = page
        .split_once("<script charset=\"UTF-8\">")
        .and_then(|(_, rest)| rest.split_once("</script>\n</head>").map(|(text, _)| text.to_owned()));
    (style.unwrap_or_default(), script.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swagger_ui_is_found_whole() {
        let (style, script) = swagger_ui();
        assert!(style.len() > 10_000 && script.len() > 500_000);
        assert!(script.contains("SwaggerUIBundle") && style.contains(".swagger-ui"));
    }
}
