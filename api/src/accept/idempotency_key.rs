//! The header `Idempotency-Key`.

use http::StatusCode;
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::web::problem::Problem;

/// The key under which an event is accepted once. Judged by the operation, after the credential.
pub(crate) struct IdempotencyKey(pub(crate) Result<String, Problem>);

impl<'a> ApiExtractor<'a> for IdempotencyKey {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let schema = MetaSchema {
            min_length: Some(1),
            max_length: Some(255),
            pattern: Some("^[!-~]+$".to_owned()),
            example: Some("invoice-4711-paid".into()),
            ..MetaSchema::new("string")
        };
        Some(MetaSchemaRef::Inline(Box::new(schema)))
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let mut values = request.headers().get_all(options.name).iter();
        Ok(Self(match (values.next(), values.next()) {
            (None, _) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "idempotency_key_required",
                "The `Idempotency-Key` header is missing. Send a key of your choice that identifies this \
                 event, and the same key on every try.",
            )),
            (Some(_), Some(_)) => {
                Err(Problem::invalid_field("Idempotency-Key", "must not be given more than once"))
            }
            (Some(value), None) => check_idempotency_key("Idempotency-Key", value.as_bytes()),
        }))
    }
}

/// Checks a key that stands in `field`.
///
/// # Errors
/// 422.
pub(crate) fn check_idempotency_key(field: &str, bytes: &[u8]) -> Result<String, Problem> {
    let is_valid = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match String::from_utf8(bytes.to_vec()) {
        Ok(key) if is_valid => Ok(key),
        _ => Err(Problem::refused_field(
            "idempotency_key_invalid",
            field,
            "must have 1 to 255 visible ASCII characters, without spaces",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_are_visible_ascii() {
        let check = |bytes: &[u8]| check_idempotency_key("idempotency_key", bytes);
        assert!(check(b"a").is_ok() && check(&[b'x'; 255]).is_ok());
        for key in [&b""[..], b"a b", b"\xff", "é".as_bytes(), &[b'x'; 256]] {
            assert!(check(key).is_err());
        }
    }
}
