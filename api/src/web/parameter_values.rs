//! The types of parameters: ids, names, times, and values of filters.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use poem_openapi::registry::MetaSchema;
use postrider_domain::delivery::DeliveryStatus;
use postrider_domain::event_type::EventType;
use postrider_domain::ids::{
    ApiKeyId, ApplicationId, DeliveryId, EmitRejectionId, EndpointId, EventId, ReplayId,
};
use postrider_store::applications::ApplicationRef;

use crate::specification::syntax;
use crate::storable_json;
use crate::web::json_types;
use crate::web::parameter::Parameter;
use crate::web::value_error::ValueError;

macro_rules! id_parameters {
    ($($id:ident, $code:literal, $what:literal;)+) => { $(
        impl Parameter for $id {
            const THING: (&'static str, &'static str) = ($code, $what);

            fn schema() -> MetaSchema {
                let example = Some("0198f1a2-3b4c-7d5e-8f60-718293a4b5c6".into());
                MetaSchema { example, ..MetaSchema::new_with_format("string", "uuid") }
            }

            fn parse(text: &str) -> Result<Self, ValueError> {
                json_types::id(text).map(Self).ok_or(ValueError::Id)
            }
        }
    )+ };
}

id_parameters! {
    ApiKeyId, "api_key_not_found", "API key";
    EndpointId, "endpoint_not_found", "endpoint";
    EventId, "event_not_found", "event";
    DeliveryId, "delivery_not_found", "delivery";
    ReplayId, "replay_not_found", "replay";
    EmitRejectionId, "emit_rejection_not_found", "rejection";
}

/// The id of any resource, or the name of an event type.
#[derive(Debug, Clone)]
pub(crate) struct ResourceId(pub(crate) String);

impl Parameter for ResourceId {
    fn schema() -> MetaSchema {
        MetaSchema {
            example: Some("0198f1a3-5d6e-7f70-8182-93a4b5c6d7e8".into()),
            min_length: Some(1),
            max_length: Some(255),
            pattern: Some("^[A-Za-z0-9._-]{1,255}$".to_owned()),
            ..MetaSchema::new("string")
        }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if let Some(id) = json_types::id(text) {
            Ok(Self(id.to_string()))
        } else if (1..=255).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::ResourceId)
        }
    }
}

impl Parameter for ApplicationRef {
    const THING: (&'static str, &'static str) = ("application_not_found", "application");

    fn schema() -> MetaSchema {
        MetaSchema {
            example: Some("acme".into()),
            min_length: Some(1),
            max_length: Some(255),
            pattern: Some(syntax::APPLICATION.to_owned()),
            ..MetaSchema::new("string")
        }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        if let Some(id) = json_types::id(text) {
            return Ok(Self::Id(ApplicationId(id)));
        }
        check_characters(text).map(|()| Self::Uid(text.to_owned()))
    }
}

fn check_characters(uid: &str) -> Result<(), ValueError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@+|~=".contains(&byte);
    if (1..=255).contains(&uid.len()) && uid.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(ValueError::UidCharacters)
}

/// Checks the syntax of a uid. It is used in paths, where `.` and `..` would be resolved, and must not look like an
/// id.
///
/// # Errors
/// What the uid must be.
pub(crate) fn check_uid(uid: &str) -> Result<(), ValueError> {
    check_characters(uid)?;
    if uid.starts_with('.') {
        return Err(ValueError::UidPeriod);
    }
    if uid.parse::<uuid::Uuid>().is_ok() {
        return Err(ValueError::UidIsId);
    }
    Ok(())
}

/// The most items on a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(pub u32);

impl Limit {
    /// The limit if none is given.
    pub(crate) const DEFAULT: u32 = 50;
    /// The largest limit.
    pub(crate) const MAX: u32 = 250;
}

impl Parameter for Limit {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(1.0),
            maximum: Some(f64::from(Self::MAX)),
            default: Some(Self::DEFAULT.into()),
            ..MetaSchema::new_with_format("integer", "int32")
        }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let number = text.parse().ok().filter(|number| (1..=Self::MAX).contains(number));
        number.map(Self).ok_or(ValueError::Number { least: 1, most: Self::MAX })
    }
}

impl Parameter for DateTime<Utc> {
    fn schema() -> MetaSchema {
        let example = Some("2026-01-31T12:00:00Z".into());
        MetaSchema { example, ..MetaSchema::new_with_format("string", "date-time") }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        json_types::time(&with_plain_offset(text)).ok_or(ValueError::Time)
    }
}

/// Rewrites the offset of a time as RFC 3339 requires. Generated clients also send `+0000` and ` +00:00`, and a `+`
/// that was not encoded arrives as a space.
fn with_plain_offset(text: &str) -> Cow<'_, str> {
    const SECONDS_END: usize = "2026-01-31T12:00:00".len();
    let Some((until_seconds, rest)) = text.split_at_checked(SECONDS_END) else { return text.into() };
    let fraction = rest.find(|character: char| character != '.' && !character.is_ascii_digit());
    let (fraction, offset) = rest.split_at(fraction.unwrap_or(rest.len()));
    let offset = offset.strip_prefix(' ').unwrap_or(offset);
    let (sign, digits) = match offset.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', offset.strip_prefix(['+', ' ']).unwrap_or(offset)),
    };
    match digits.as_bytes() {
        [a, b, b':', c, d] | [a, b, c, d] if [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()) => {
            let [a, b, c, d] = [a, b, c, d].map(|&digit| char::from(digit));
            format!("{until_seconds}{fraction}{sign}{a}{b}:{c}{d}").into()
        }
        _ => text.into(),
    }
}

impl Parameter for bool {
    fn schema() -> MetaSchema {
        MetaSchema { default: Some(false.into()), ..MetaSchema::new("boolean") }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        text.parse().map_err(|_| ValueError::Boolean)
    }
}

impl Parameter for EventType {
    const THING: (&'static str, &'static str) = ("event_type_not_found", "event type");

    fn schema() -> MetaSchema {
        MetaSchema {
            example: Some("invoice.paid".into()),
            max_length: Some(255),
            pattern: Some(syntax::EVENT_TYPE.to_owned()),
            ..MetaSchema::new("string")
        }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(Self::parse(text)?)
    }
}

impl Parameter for DeliveryStatus {
    fn schema() -> MetaSchema {
        let enum_items = Self::ALL.iter().map(|status| status.as_str().into()).collect();
        MetaSchema { enum_items, example: Some("dead_letter".into()), ..MetaSchema::new("string") }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let names = Self::ALL.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(", ");
        text.parse().map_err(|_| ValueError::Name(names))
    }
}

/// An HTTP status from 100 to 599.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpStatus(pub i16);

impl Parameter for HttpStatus {
    fn schema() -> MetaSchema {
        MetaSchema {
            minimum: Some(100.0),
            maximum: Some(599.0),
            example: Some(500.into()),
            ..MetaSchema::new_with_format("integer", "int32")
        }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        let number = text.parse().ok().filter(|number| (100..=599).contains(number));
        number.map(Self).ok_or(ValueError::HttpStatus)
    }
}

/// A JSON object that an event's `data` must contain.
#[derive(Debug, Clone)]
pub(crate) struct Containment(pub(crate) String);

impl Parameter for Containment {
    fn schema() -> MetaSchema {
        MetaSchema { example: Some(r#"{"currency":"EUR"}"#.into()), ..MetaSchema::new("string") }
    }

    fn parse(text: &str) -> Result<Self, ValueError> {
        storable_json::check_depth(text)?;
        let raw: &serde_json::value::RawValue =
            serde_json::from_str(text).map_err(|_| ValueError::NotJson)?;
        if !raw.get().starts_with('{') {
            return Err(ValueError::NotAnObject);
        }
        storable_json::check(text)?;
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_named_by_id_or_uid() {
        let id = "0198f1a2-3b4c-7d5e-8f60-718293a4b5c6";
        assert!(matches!(ApplicationRef::parse(id), Ok(ApplicationRef::Id(_))));
        assert_eq!(ApplicationRef::parse("acme:1"), Ok(ApplicationRef::Uid("acme:1".to_owned())));
        for text in ["", "a b", "a/b", "é", "\0", &"a".repeat(256), &format!("{{{id}}}")] {
            assert!(ApplicationRef::parse(text).is_err(), "{text}");
        }
        for uid in [id, ".", "..", ".a", "a b"] {
            assert!(check_uid(uid).is_err(), "{uid}");
        }
    }

    #[test]
    fn ids_have_one_form() {
        assert!(EventId::parse("0198f1a2-3b4c-7d5e-8f60-718293a4b5c6").is_ok());
        for text in ["0198f1a23b4c7d5e8f60718293a4b5c6", "{0198f1a2-3b4c-7d5e-8f60-718293a4b5c6}", "1", ""] {
            assert!(EventId::parse(text).is_err(), "{text}");
        }
        let upper = ResourceId::parse("0198F1A2-3B4C-7D5E-8F60-718293A4B5C6").expect("an id");
        assert_eq!(upper.0, "0198f1a2-3b4c-7d5e-8f60-718293a4b5c6");
    }

    #[test]
    fn a_time_may_have_any_offset_that_clients_write() {
        let noon = json_types::time("2026-01-31T12:00:00.5Z").expect("a time");
        for text in [
            "2026-01-31T12:00:00.5Z",
            "2026-01-31T12:00:00.5+00:00",
            "2026-01-31T12:00:00.5+0000",
            "2026-01-31T12:00:00.5 00:00",
            "2026-01-31T12:00:00.5 0000",
            "2026-01-31T12:00:00.5 +00:00",
            "2026-01-31T12:00:00.5  00:00",
            "2026-01-31 12:00:00.5 +0000",
            "2026-01-31T13:00:00.5 01:00",
            "2026-01-31T10:30:00.5-0130",
            "2026-01-31T10:30:00.5 -01:30",
        ] {
            assert_eq!(<DateTime<Utc> as Parameter>::parse(text), Ok(noon), "{text}");
        }
        for text in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00+",
            "2026-01-31T12:00:00+1",
            "2026-01-31T12:00:00+000",
            "2026-01-31T12:00:00++00:00",
            "2026-01-31T12:00:00+-00:00",
            "2026-01-31T12:00:00   00:00",
            "2026-01-31T12:00:00+00:0é",
            "2026-01-31T12:00:0é+00:00",
            "2026-01-31T12:00:00 Z",
        ] {
            assert!(<DateTime<Utc> as Parameter>::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_statuses_and_filters_are_bounded() {
        for text in ["0", "251", "-1", "1.5", "x", ""] {
            assert!(Limit::parse(text).is_err(), "{text}");
        }
        assert!(HttpStatus::parse("99").is_err() && HttpStatus::parse("503").is_ok());
        for text in ["", "x", "[1]", "1", r#"{"a":"\u0000"}"#, r#"{"a":1e2000}"#, "{}x"] {
            assert!(Containment::parse(text).is_err(), "{text}");
        }
        assert!(Containment::parse(r#" {"a":{"b":1}} "#).is_ok());
    }
}
