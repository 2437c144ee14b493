//! Publishes an event. The statement that stores the event also checks the credential, so that a good request needs
//! no other statement. For a bad request, the problem that is reported is the first of: 401, 403, mistakes in the
//! event.

use std::borrow::Cow;

use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, Object};
use postrider_domain::event::{NewEvent, Producer};
use postrider_store::applications::ApplicationRef;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::accept::AcceptedEvent;
use crate::accept::error::AcceptError;
use crate::accept::posted::Posted;
use crate::app::App;
use crate::auth::{self, Credential, Scope};
use crate::web::body;
use crate::web::idempotency_key::IdempotencyKey;
use crate::web::json_types::JsonObject;
use crate::web::problem::Problem;

/// The event to publish.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishEventRequest {
    /// The type of the event: parts of letters, digits and `_`, separated by periods, such as `invoice.paid`. Types
    /// that start with `postrider.` are reserved.
    #[oai(validator(min_length = 1, max_length = 255))]
    event_type: String,
    /// Any JSON object. Receivers get it with every digit and character. The order of keys and white space are not
    /// preserved.
    data: JsonObject,
}

/// An accepted event.
#[derive(Debug, Object, Serialize)]
pub(crate) struct PublishedEvent {
    /// Always `accepted`.
    pub(crate) status: String,
    /// The id of the event. It is also the `webhook-id` of every attempt to deliver the event.
    pub(crate) event_id: Uuid,
    /// The number of endpoints that the event is delivered to.
    pub(crate) deliveries_queued: i32,
    /// True if the event was already published with the same key. Nothing is delivered again in that case.
    pub(crate) duplicate: bool,
}

impl From<AcceptedEvent> for PublishedEvent {
    fn from(event: AcceptedEvent) -> Self {
        Self {
            status: "accepted".to_owned(),
            event_id: event.event_id.0,
            deliveries_queued: event.deliveries_queued,
            duplicate: event.is_duplicate,
        }
    }
}

/// The event in the body, or the problem with it. The problem is reported only after the credential has been checked.
pub(crate) struct PostedEvent(Result<Posted, Problem>);

impl<'a> ApiExtractor<'a> for PostedEvent {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        PublishEventRequest::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(body::request_meta(PublishEventRequest::schema_ref()))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = body::read(request, body, body::MAX_BYTES).await;
        Ok(Self(bytes.and_then(|bytes| parse(&bytes))))
    }
}

/// Parses a body and checks everything that would prevent the event from being stored.
fn parse(bytes: &[u8]) -> Result<Posted, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body<'a> {
        #[serde(borrow)]
        event_type: Cow<'a, str>,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let body: Body<'_> = body::parse_raw(body::text(bytes)?)?;
    Ok(Posted::check(&body.event_type, body.data.get())?)
}

/// Publishes an event.
///
/// # Errors
/// 401, then 403, then the mistakes in the event; 503 if the event cannot be stored now.
pub(crate) async fn publish(
    app: &App,
    credential: Credential,
    idempotency_key: IdempotencyKey,
    application: Option<ApplicationRef>,
    event: PostedEvent,
) -> Result<PublishedEvent, Problem> {
    let event = match compose(app, &credential, idempotency_key, application, event).await {
        Ok(event) => event,
        Err(problem) => {
            credential.identify(app).await?.require(Scope::Publish)?;
            return Err(problem);
        }
    };
    let result = app.acceptor.accept(event).await;
    if let Credential::Key(hash) = credential
        && result != Err(AcceptError::UnknownKey)
    {
        app.key_use.note(hash);
    }
    Ok(result?.into())
}

async fn compose(
    app: &App,
    credential: &Credential,
    idempotency_key: IdempotencyKey,
    application: Option<ApplicationRef>,
    event: PostedEvent,
) -> Result<NewEvent, Problem> {
    let idempotency_key = idempotency_key.0?;
    let posted = event.0?;
    let producer = match (credential, &application) {
        (Credential::Key(hash), None) => Producer::Key(*hash),
        (Credential::Key(hash), Some(_)) => {
            let caller = credential.identify(app).await?;
            caller.require(Scope::Publish)?;
            caller.written_application(app, application.as_ref()).await?;
            Producer::Key(*hash)
        }
        (Credential::Admin, _) => {
            Producer::Admin(auth::Caller::Admin.written_application(app, application.as_ref()).await?)
        }
    };
    Ok(posted.by(producer, idempotency_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(json: &str) -> &'static str {
        parse(json.as_bytes()).err().map_or("ok", |problem| problem.code)
    }

    #[test]
    fn the_data_reaches_the_store_as_it_was_written() {
        let json = r#"{"event_type":"a.b","data":{"n":1e308,"m":0.10,"l":12345678901234567890}}"#;
        let posted = parse(json.as_bytes()).expect("an event");
        assert_eq!(&*posted.data, r#"{"n":1e308,"m":0.10,"l":12345678901234567890}"#);
        assert_eq!(posted.event_type.as_str(), "a.b");
    }

    #[test]
    fn what_is_refused_has_a_code() {
        for (json, expected) in [
            (r#"{"event_type":"a","data":{}}"#, "ok"),
            (r#"{"event_type":"\u0061","data":{}}"#, "ok"),
            ("", "malformed_json"),
            (r#"{"event_type":"a","data":{}"#, "malformed_json"),
            (r#"{"event_type":1,"data":{}"#, "malformed_json"),
            (r#"{"event_type":"a","data":{}}x"#, "malformed_json"),
            (r#"{"event_type":"a","data":{"a":01}}"#, "malformed_json"),
            ("[]", "validation_failed"),
            (r#"["a",{}]"#, "validation_failed"),
            (r#"{"data":{}}"#, "validation_failed"),
            (r#"{"event_type":"a"}"#, "validation_failed"),
            (r#"{"event_type":null,"data":{}}"#, "validation_failed"),
            (r#"{"event_type":"a","data":[]}"#, "validation_failed"),
            (r#"{"event_type":"a","data":{},"x":1}"#, "validation_failed"),
            (r#"{"event_type":"a","event_type":"b","data":{}}"#, "validation_failed"),
            (r#"{"event_type":"a-b","data":{}}"#, "event_type_invalid"),
            (r#"{"event_type":"a\u0000","data":{}}"#, "event_type_invalid"),
            (r#"{"event_type":"postrider.x","data":{}}"#, "event_type_reserved"),
            (r#"{"event_type":"a","data":{"a":1,"a":2}}"#, "json_duplicate_key"),
            (r#"{"event_type":"a","data":{"a":"\u0000"}}"#, "json_nul"),
            (r#"{"event_type":"a","data":{"a":"\ud800"}}"#, "json_lone_surrogate"),
            (r#"{"event_type":"a","data":{"a":1e131071}}"#, "json_number_too_long"),
        ] {
            assert_eq!(code(json), expected, "{json}");
        }
        assert_eq!(
            parse(b"{\"event_type\":\"\xff\"}").err().map(|problem| problem.code),
            Some("malformed_json")
        );
    }
}
