//! Publishes a batch of events. Each event is accepted or refused on its own.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, Object};
use postrider_domain::event::Producer;
use postrider_store::applications::ApplicationRef;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::accept::idempotency_key::check_idempotency_key;
use crate::accept::posted::Posted;
use crate::accept::{AcceptedEvent, Mode};
use crate::app::App;
use crate::auth::{Credential, Scope};
use crate::storable_json;
use crate::web::body;
use crate::web::json_types::JsonObject;
use crate::web::problem::{Problem, ProblemBody};

/// The most events in one request.
const MAX_EVENTS: usize = 1_000;
/// The largest body, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// The largest `data` of one event, in bytes.
const MAX_DATA_BYTES: usize = 262_144;

/// The events to publish.
#[derive(Debug, Object, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishEventBatchRequest {
    /// The events. Each is accepted or rejected on its own.
    #[oai(validator(min_items = 1, max_items = 1000))]
    events: Vec<BatchEvent>,
}

/// One event of a batch.
#[derive(Debug, Object, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchEvent {
    /// A key of your choice that identifies this event: 1 to 255 visible ASCII characters. Send the same key on every
    /// try.
    #[oai(validator(min_length = 1, max_length = 255))]
    idempotency_key: String,
    /// The type of the event: parts of letters, digits and `_`, separated by periods, such as `invoice.paid`. Types
    /// that start with `postrider.` are reserved.
    #[oai(validator(min_length = 1, max_length = 255))]
    event_type: String,
    /// Any JSON object of up to 262,144 bytes.
    data: JsonObject,
}

/// The outcome of a batch.
#[derive(Debug, Object, Serialize)]
pub(crate) struct PublishedEventBatch {
    /// One result for each event, in the order of the request.
    results: Vec<BatchResult>,
}

/// The outcome of one event of a batch.
#[derive(Debug, Object, Serialize)]
pub(crate) struct BatchResult {
    /// The position of the event in the request, starting at 0.
    index: i32,
    /// `accepted` if the event is durably stored, or `rejected` if it is not. `error` then says why.
    status: String,
    /// The id of the event. Null if it was rejected.
    event_id: Option<Uuid>,
    /// The number of endpoints that the event is delivered to. Null if it was rejected.
    deliveries_queued: Option<i32>,
    /// True if the event was already published with the same key. Nothing is delivered again in that case. Null if
    /// the event was rejected.
    duplicate: Option<bool>,
    /// The problem that publishing this event on its own would have returned. Null if it was accepted.
    error: Option<ProblemBody>,
}

/// The events in the body, or the problem with it. The problem is reported only after the credential has been
/// checked.
pub(crate) struct PostedBatch(Result<Vec<Result<Item, Problem>>, Problem>);

/// The result for one event of a batch.
type EventResult = Result<AcceptedEvent, Problem>;

/// An event of a batch, checked.
#[derive(Debug)]
struct Item {
    idempotency_key: String,
    event: Posted,
}

impl<'a> ApiExtractor<'a> for PostedBatch {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        PublishEventBatchRequest::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(body::request_meta(PublishEventBatchRequest::schema_ref()))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = body::read(request, body, MAX_BYTES).await;
        Ok(Self(bytes.and_then(|bytes| parse(&bytes))))
    }
}

/// Publishes a batch. Problems with single events are part of the result.
///
/// # Errors
/// 401, then 403, then problems with the batch as a whole; 429 or 503 if nothing was stored and another try may
/// succeed.
pub(crate) async fn publish_batch(
    app: &App,
    credential: Credential,
    application: Option<ApplicationRef>,
    batch: PostedBatch,
) -> Result<PublishedEventBatch, Problem> {
    let caller = credential.identify(app).await?;
    caller.require(Scope::Publish)?;
    let application = caller.written_application(app, application.as_ref()).await?;
    let producer = match credential {
        Credential::Key(hash) => Producer::Key(hash),
        Credential::Admin => Producer::Admin(application),
    };
    let mut events = Vec::new();
    let mut refusals = Vec::new();
    for item in batch.0? {
        let by = |item: Item| item.event.by(producer.clone(), item.idempotency_key);
        refusals.push(item.map(|item| events.push(by(item))).err());
    }
    let mut results = app.acceptor.accept_all(events, Mode::Queued).await?.into_iter();
    let results = refusals.into_iter().filter_map(|refusal| match refusal {
        Some(problem) => Some(Err(problem)),
        None => Some(results.next()?.map_err(Problem::from)),
    });
    summarise(results.collect())
}

/// Returns the results. If nothing was accepted and another try may help, returns that problem for the whole request
/// instead.
fn summarise(results: Vec<EventResult>) -> Result<PublishedEventBatch, Problem> {
    if results.iter().all(Result::is_err)
        && let Some(problem) = results.iter().filter_map(|result| result.as_ref().err()).find(|problem| {
            matches!(problem.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
        })
    {
        return Err(problem.clone());
    }
    let results = (0..).zip(results).map(|(index, result)| result_of(index, result)).collect();
    Ok(PublishedEventBatch { results })
}

fn result_of(index: i32, result: EventResult) -> BatchResult {
    let (accepted, error) = match result {
        Ok(accepted) => (Some(accepted), None),
        Err(problem) => (None, Some(problem.body())),
    };
    BatchResult {
        index,
        status: if error.is_none() { "accepted" } else { "rejected" }.to_owned(),
        event_id: accepted.as_ref().map(|event| event.event_id.0),
        deliveries_queued: accepted.as_ref().map(|event| event.deliveries_queued),
        duplicate: accepted.as_ref().map(|event| event.is_duplicate),
        error,
    }
}

/// Parses a batch. A mistake in one event does not affect the others.
fn parse(bytes: &[u8]) -> Result<Vec<Result<Item, Problem>>, Problem> {
    #[derive(DeriveDeserialize)]
    #[serde(deny_unknown_fields)]
    struct Body<'a> {
        #[serde(borrow)]
        events: Events<'a>,
    }
    let Body { events } = body::parse_raw(body::utf8(bytes)?)?;
    if !(1..=MAX_EVENTS).contains(&events.count) {
        return Err(Problem::invalid_field("events", format!("must have 1 to {MAX_EVENTS} items")));
    }
    Ok(events.first.into_iter().map(|raw| parse_item(raw.get())).collect())
}

fn parse_item(json: &str) -> Result<Item, Problem> {
    #[derive(DeriveDeserialize)]
    #[serde(deny_unknown_fields)]
    struct Body<'a> {
        #[serde(borrow)]
        idempotency_key: Cow<'a, str>,
        #[serde(borrow)]
        event_type: Cow<'a, str>,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    if !json.starts_with('{') {
        return Err(Problem::invalid_field("event", "must be a JSON object"));
    }
    storable_json::check_depth(json)
        .map_err(|defect| Problem::refused_field(defect.code(), "data", defect.to_string()))?;
    let body: Body<'_> = body::parse_raw(json)?;
    let idempotency_key = check_idempotency_key(body.idempotency_key.as_bytes())?;
    let data = body.data.get();
    if data.len() > MAX_DATA_BYTES {
        let message = format!("must have at most {MAX_DATA_BYTES} bytes");
        let problem = Problem::refused_field("data_too_large", "data", message);
        return Err(Problem { status: StatusCode::PAYLOAD_TOO_LARGE, ..problem });
    }
    Ok(Item { idempotency_key, event: Posted::check(&body.event_type, data)? })
}

/// The first events of an array, up to the maximum, and the number of all of them.
struct Events<'a> {
    first: Vec<&'a RawValue>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Events<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EventsVisitor;
        impl<'de> Visitor<'de> for EventsVisitor {
            type Value = Events<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Events<'de>, A::Error> {
                let mut first = Vec::new();
                while first.len() < MAX_EVENTS {
                    let Some(event) = seq.next_element()? else {
                        return Ok(Events { count: first.len(), first });
                    };
                    first.push(event);
                }
                let mut count = first.len();
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Events { first, count })
            }
        }
        deserializer.deserialize_seq(EventsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::ids::EventId;

    use super::*;

    fn codes(json: &str) -> Result<Vec<&'static str>, &'static str> {
        match parse(json.as_bytes()) {
            Ok(items) => Ok(items
                .iter()
                .map(|item| item.as_ref().err().map_or("ok", |problem| problem.code))
                .collect()),
            Err(problem) => Err(problem.code),
        }
    }

    fn event(data: &str) -> String {
        format!(r#"{{"idempotency_key":"k","event_type":"a.b","data":{data}}}"#)
    }

    #[test]
    fn items_stand_alone() {
        let deep = event(&format!("{}{}{}", r#"{"a":"#.repeat(63), "{}", "}".repeat(63)));
        let large = event(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_DATA_BYTES)));
        for (item, code) in [
            (event("{}").as_str(), "ok"),
            (r#"{"idempotency_key":"\u006b","event_type":"a","data":{"a":1e300}}"#, "ok"),
            (&deep, "json_too_deep"),
            (&large, "data_too_large"),
            ("1", "validation_failed"),
            ("{}", "validation_failed"),
            (r#"{"idempotency_key":"k","event_type":"a","data":{},"x":1}"#, "validation_failed"),
            (r#"{"idempotency_key":"k k","event_type":"a","data":{}}"#, "idempotency_key_invalid"),
            (r#"{"idempotency_key":"k","event_type":"postrider.a","data":{}}"#, "event_type_reserved"),
            (r#"{"idempotency_key":"k","event_type":"a","data":[]}"#, "validation_failed"),
            (r#"{"idempotency_key":"k","event_type":"a","data":{"a":1e1001}}"#, "json_number_too_long"),
        ] {
            let batch = format!(r#"{{"events":[{item},{}]}}"#, event("{}"));
            assert_eq!(codes(&batch), Ok(vec![code, "ok"]), "{item}");
        }
    }

    #[test]
    fn a_batch_that_is_none_is_refused_whole() {
        let many = |count: usize| format!(r#"{{"events":[{}]}}"#, vec![event("{}"); count].join(","));
        assert_eq!(codes(&many(1_000)).map(|items| items.len()), Ok(1_000));
        assert_eq!(codes(&many(1_001)), Err("validation_failed"));
        for json in [r#"{"events":[]}"#, r#"{"events":{}}"#, "{}", "[]", r#"{"events":[],"x":1}"#] {
            assert_eq!(codes(json), Err("validation_failed"), "{json}");
        }
        for json in ["", r#"{"events":[}"#, r#"{"events":[{]}"#, r#"{"events":[1]}x"#, "{\"events\":[1"] {
            assert_eq!(codes(json), Err("malformed_json"), "{json}");
        }
        assert_eq!(codes(&"[".repeat(100_000)), Err("malformed_json"));
    }

    #[test]
    fn only_where_nothing_was_stored_is_another_try_asked_for() {
        let accepted = || {
            Ok(AcceptedEvent { event_id: EventId(Uuid::nil()), deliveries_queued: 2, is_duplicate: false })
        };
        let away = || Err(Problem::database_unavailable());
        let wrong = || Err(Problem::invalid_field("data", "must be a JSON object"));
        assert_eq!(summarise(vec![wrong(), away()]).expect_err("503").code, "unavailable");
        for results in [vec![wrong(), wrong()], vec![accepted(), away(), wrong()]] {
            let expected: Vec<_> = results.iter().map(Result::is_ok).collect();
            let batch = summarise(results).expect("results");
            for ((index, result), is_ok) in (0..).zip(&batch.results).zip(expected) {
                assert_eq!(result.index, index);
                assert_eq!((result.event_id.is_some(), result.error.is_none()), (is_ok, is_ok));
            }
        }
    }
}
