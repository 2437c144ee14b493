//! Request bodies: read within limits, checked, and parsed by serde. All failures are reported in the same way.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{StatusCode, header};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::storable_json;
use crate::web::admission::Turn;
use crate::web::problem::Problem;

/// The largest request body, except for a batch of events.
pub(crate) const MAX_BYTES: usize = 262_144;
/// How long a body may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much is read of a body that is too large, and for how long, so that its sender can read the response instead
/// of finding the connection reset.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// A JSON body, parsed strictly: unknown fields are refused.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<'a, T: Type + DeserializeOwned> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta(T::schema_ref()))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = read(request, body, MAX_BYTES).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// A JSON body that is optional, as are all of its fields. A missing body, an empty one and `null` mean the same.
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<'a, T: Type + DeserializeOwned + Default> ApiExtractor<'a> for OptionalJsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest { required: false, ..request_meta(T::schema_ref()) })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let headers = request.headers();
        let is_absent = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
            && !headers.contains_key(header::TRANSFER_ENCODING);
        if is_absent {
            begin_work(request).await?;
            return Ok(Self(T::default()));
        }
        let bytes = read(request, body, MAX_BYTES).await?;
        let is_nothing = matches!(bytes.trim_ascii(), b"" | b"null");
        Ok(Self(if is_nothing { T::default() } else { parse(&bytes)? }))
    }
}

/// Describes a JSON body for the specification.
pub(crate) fn request_meta(schema: MetaSchemaRef) -> MetaRequest {
    MetaRequest {
        description: None,
        content: vec![MetaMediaType { content_type: "application/json", schema }],
        required: true,
    }
}

/// Reads a JSON body of at most `max_bytes`.
///
/// # Errors
/// 415 if the headers do not announce plain JSON; 413 if the body is larger, whatever its headers say; 400 if it
/// breaks off or takes longer than 30 seconds.
pub(crate) async fn read(
    request: &Request,
    body: &mut RequestBody,
    max_bytes: usize,
) -> Result<Bytes, Problem> {
    check_content_type(request)?;
    let body = body.take().map_err(|_| Problem::internal())?;
    let mut stream = body.into_bytes_stream();
    let declared = request.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let mut is_too_large = declared.is_some_and(|length| length > max_bytes as u64);
    let mut bytes = BytesMut::new();
    let reading = async {
        while !is_too_large {
            match stream.next().await {
                None => return Ok(()),
                Some(Err(_)) => return Err(incomplete()),
                Some(Ok(chunk)) if bytes.len() + chunk.len() > max_bytes => is_too_large = true,
                Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
            }
        }
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, reading).await.unwrap_or_else(|_| Err(incomplete()))?;
    if is_too_large {
        drop(bytes);
        let draining = async {
            let mut drained = 0;
            while let Some(Ok(chunk)) = stream.next().await {
                drained += chunk.len();
                if drained > DRAIN_BYTES {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, draining).await;
        return Err(too_large(max_bytes));
    }
    begin_work(request).await?;
    Ok(bytes.freeze())
}

async fn begin_work(request: &Request) -> Result<(), Problem> {
    match request.data::<Turn>() {
        Some(turn) => turn.begin().await,
        None => Ok(()),
    }
}

fn check_content_type(request: &Request) -> Result<(), Problem> {
    let media_type = request.content_type().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(unsupported(
            "The body must be JSON. Send it with the header `Content-Type: application/json`.",
        ));
    }
    match request.headers().get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(unsupported(
            "The body has a `Content-Encoding`, which is not supported. Send it uncompressed.",
        )),
        _ => Ok(()),
    }
}

/// Parses a body.
///
/// # Errors
/// 400 if it is not JSON; 422 if it does not have the expected fields or cannot be stored.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let json = text(bytes)?;
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    // Check the syntax of the whole body first: a broken body is a 400, whatever its first half means.
    serde_json::from_str::<serde::de::IgnoredAny>(json).map_err(|error| malformed(&error))?;
    check_object(json)?;
    storable_json::check(json)
        .map_err(|defect| Problem::refused_field(defect.code(), "body", defect.to_string()))?;
    parsed.map_err(|error| {
        let path = error.path().to_string();
        mistake(&path, error.inner())
    })
}

/// Returns the body as text, after checking its depth.
///
/// # Errors
/// 400 if it is not UTF-8; 422 if it is nested too deep.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Problem> {
    let json = utf8(bytes)?;
    storable_json::check_depth(json)
        .map_err(|defect| Problem::refused_field(defect.code(), "body", defect.to_string()))?;
    Ok(json)
}

/// Returns the body as text, of any depth.
///
/// # Errors
/// 400 if it is not UTF-8.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed_json",
            "The body is not valid UTF-8. Send JSON encoded in UTF-8.",
        )
    })
}

/// Parses JSON whose depth has been checked. Its content is not checked and can be borrowed unchanged.
///
/// # Errors
/// 400 if it is not JSON; 422 if it does not have the expected fields.
pub(crate) fn parse_raw<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Problem> {
    let parsed = serde_json::from_str(json);
    if parsed.is_err() {
        // A body with an invalid first half may not be JSON in its second.
        serde_json::from_str::<serde::de::IgnoredAny>(json).map_err(|error| malformed(&error))?;
    }
    check_object(json)?;
    parsed.map_err(|error| mistake("", &error))
}

/// Refuses anything but an object. Serde would accept an array as the fields of a struct, in their order.
fn check_object(json: &str) -> Result<(), Problem> {
    if json.trim_start().starts_with('{') {
        Ok(())
    } else {
        Err(Problem::invalid_field("body", "must be a JSON object"))
    }
}

/// 400: not JSON.
fn malformed(error: &serde_json::Error) -> Problem {
    let detail = if error.is_eof() && error.column() == 0 {
        "The body is empty. Send a JSON object.".to_owned()
    } else {
        format!("The body is not valid JSON: {error}.")
    };
    Problem::new(StatusCode::BAD_REQUEST, "malformed_json", detail)
}

/// 422: valid JSON, but not the expected fields.
fn mistake(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let named = message.strip_prefix("missing field `").or_else(|| message.strip_prefix("unknown field `"));
    let name = named.and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
    let field = match (path, name) {
        ("." | "", Some(name)) => name.to_owned(),
        ("." | "", None) => "body".to_owned(),
        (path, Some(name)) if message.starts_with("missing") => format!("{path}.{name}"),
        (path, _) => path.to_owned(),
    };
    let message = match message {
        _ if message.starts_with("missing field") => "is required".to_owned(),
        _ if message.starts_with("unknown field") => "is not a field of this request; remove it".to_owned(),
        other => format!("is not valid: {other}"),
    };
    Problem::invalid_field(field, message)
}

fn too_large(max_bytes: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("The body is larger than {max_bytes} bytes, which is the maximum. Send a smaller one."),
    )
}

fn incomplete() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "body_incomplete",
        "The body was incomplete or took too long to arrive. Send the request again.",
    )
}

fn unsupported(detail: &str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::web::json_types::JsonObject;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "what is parsed is not looked at")]
    struct Example {
        name: String,
        sizes: Option<Vec<u8>>,
        metadata: Option<JsonObject>,
    }

    fn refusal(json: &str) -> (u16, &'static str, String) {
        let problem = parse::<Example>(json.as_bytes()).expect_err(json);
        let field = problem.errors.first().map(|error| error.field.clone()).unwrap_or_default();
        (problem.status.as_u16(), problem.code, field)
    }

    #[test]
    fn a_good_body_is_parsed() {
        parse::<Example>(br#" {"name":"a","sizes":[1],"metadata":{"n":1e300}} "#).expect("good");
    }

    #[test]
    fn what_is_wrong_is_told_by_status_code_and_field() {
        for json in ["", "{", "nul", r#"{"name":}"#, r#"{"name":1} x"#, "{\"name\":\"a\nb\"}"] {
            assert_eq!(refusal(json), (400, "malformed_json", String::new()), "{json}");
        }
        for (json, code, field) in [
            ("[]", "validation_failed", "body"),
            (r#"["a",null,null]"#, "validation_failed", "body"),
            ("null", "validation_failed", "body"),
            ("{}", "validation_failed", "name"),
            (r#"{"name":1}"#, "validation_failed", "name"),
            (r#"{"name":"a","nam":1}"#, "validation_failed", "nam"),
            (r#"{"name":"a","sizes":[1,300]}"#, "validation_failed", "sizes[1]"),
            (r#"{"name":"\u0000"}"#, "json_nul", "body"),
            (r#"{"name":"a","name":"b"}"#, "json_duplicate_key", "body"),
            (r#"{"name":"a","metadata":{"n":1e2000}}"#, "json_number_too_long", "body"),
        ] {
            assert_eq!(refusal(json), (422, code, field.to_owned()), "{json}");
        }
        assert_eq!(refusal(&"[".repeat(100_000)).1, "json_too_deep");
    }
}
