//! The `Idempotency-Key` header.

use http::StatusCode;
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::accept::idempotency_key::check_idempotency_key;
use crate::web::problem::Problem;

/// The idempotency key of a request, or the problem with it. The operation reports the problem after it has checked
/// the credential.
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
            (Some(value), None) => check_idempotency_key(value.as_bytes()).map_err(|error| {
                Problem::refused_field("idempotency_key_invalid", "Idempotency-Key", error.to_string())
            }),
        }))
    }
}
