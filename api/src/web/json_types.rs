//! Types of values in bodies: times, ids, and JSON objects that are passed on unchanged.

use std::borrow::Cow;

use chrono::{DateTime, Datelike as _, Utc};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A time, written as RFC 3339 in UTC with microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) DateTime<Utc>);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let at = time(&text).map(Self);
        at.ok_or_else(|| {
            D::Error::custom("expected an RFC 3339 time up to the year 9999, such as `2026-01-31T12:00:00Z`")
        })
    }
}

/// Parses a time that can also be written. RFC 3339 only has the years 0 to 9999, and an offset can lead out of them.
pub(crate) fn time(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (0..=9_999).contains(&at.year()).then_some(at)
}

/// An id in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Id(pub(crate) Uuid);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        id(&text).map(Self).ok_or_else(|| D::Error::custom("expected a UUID"))
    }
}

/// Parses an id in the form that the API writes. The other forms of a UUID are refused.
pub(crate) fn id(text: &str) -> Option<Uuid> {
    text.parse().ok().filter(|_| text.len() == 36)
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at)
    }
}

/// A JSON object that is kept as text, so that every digit is preserved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct JsonObject(pub(crate) Box<RawValue>);

impl JsonObject {
    /// Wraps JSON that PostgreSQL rendered.
    pub(crate) fn rendered(json: String) -> Self {
        Self(RawValue::from_string(json).expect("PostgreSQL renders valid JSON"))
    }

    /// Returns the JSON text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.get()
    }
}

/// Implements the traits of poem-openapi for a type with the given schema. Bodies are read and written by serde,
/// never by the methods of these traits.
macro_rules! schema {
    ($type:ty, $name:literal, $schema:expr) => {
        impl Type for $type {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                $name.into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new($schema))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }

        impl ParseFromJSON for $type {
            fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
                serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
            }
        }

        impl ToJSON for $type {
            fn to_json(&self) -> Option<serde_json::Value> {
                serde_json::to_value(self).ok()
            }
        }
    };
}

schema!(Id, "id", MetaSchema::new_with_format("string", "uuid"));
schema!(Timestamp, "timestamp", MetaSchema::new_with_format("string", "date-time"));
schema!(
    JsonObject,
    "json_object",
    MetaSchema {
        additional_properties: Some(Box::new(MetaSchemaRef::Inline(Box::new(MetaSchema::ANY)))),
        ..MetaSchema::new("object")
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_microseconds_and_a_z() {
        let at: Timestamp = serde_json::from_str("\"2026-01-02T03:04:05+01:00\"").expect("a time");
        assert_eq!(serde_json::to_string(&at).expect("text"), "\"2026-01-02T02:04:05.000000Z\"");
        for text in ["\"+262142-12-31T23:59:59Z\"", "\"2026-01-02\"", "1", "null"] {
            assert!(serde_json::from_str::<Timestamp>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_one_that_can_be_written_again() {
        for text in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59+14:00"] {
            let written = serde_json::to_string(&Timestamp(time(text).expect(text))).expect("text");
            assert!(serde_json::from_str::<Timestamp>(&written).is_ok(), "{written}");
        }
        for text in ["0000-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "10000-01-01T00:00:00Z"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn an_id_has_one_form() {
        let json = "\"0198f1a2-3b4c-7d5e-8f60-718293a4b5c6\"";
        let id: Id = serde_json::from_str(json).expect("an id");
        assert_eq!(serde_json::to_string(&id).expect("text"), json);
        let id = id.0;
        for text in [id.simple().to_string(), id.braced().to_string(), id.urn().to_string(), String::new()] {
            assert!(serde_json::from_str::<Id>(&format!("\"{text}\"")).is_err(), "{text}");
        }
    }

    #[test]
    fn an_object_keeps_every_digit() {
        let json = r#"{"n":12345678901234567890.10}"#;
        let object: JsonObject = serde_json::from_str(json).expect("an object");
        assert_eq!(serde_json::to_string(&object).expect("text"), json);
    }
}
