//! An event as a producer has written it, checked.

use postrider_domain::event::{NewEvent, Producer, SchemaCheck};
use postrider_domain::event_type::{EventType, RESERVED_PREFIX};

use crate::web::problem::Problem;
use crate::web::storable_json;

/// What of an event is stored.
#[derive(Debug)]
pub(crate) struct Posted {
    /// Its type.
    pub(crate) event_type: EventType,
    /// Its data, as it was written.
    pub(crate) data: Box<str>,
}

impl Posted {
    /// Checks all that would keep an event from being stored.
    ///
    /// # Errors
    /// 422.
    pub(crate) fn check(event_type: &str, data: &str) -> Result<Self, Problem> {
        let event_type = parse(event_type)?;
        if event_type.is_reserved() {
            let message = format!(
                "must not start with `{RESERVED_PREFIX}`, which is reserved for Postrider's own events"
            );
            return Err(Problem::refused_field("event_type_reserved", "event_type", message));
        }
        if !data.starts_with('{') {
            return Err(Problem::invalid_field("data", "must be a JSON object"));
        }
        storable_json::check(data)
            .map_err(|defect| Problem::refused_field(defect.code(), "data", defect.to_string()))?;
        Ok(Self { event_type, data: data.into() })
    }

    /// An event of Postrider's own, whose type is reserved.
    ///
    /// # Errors
    /// 422.
    pub(crate) fn operational(event_type: &str, data: String) -> Result<Self, Problem> {
        Ok(Self { event_type: parse(event_type)?, data: data.into() })
    }

    /// What is to be accepted: neither its schema nor the limit of its application was looked at yet.
    pub(crate) fn by(self, producer: Producer, idempotency_key: String) -> NewEvent {
        NewEvent {
            producer,
            idempotency_key,
            event_type: self.event_type,
            data: self.data,
            schema: SchemaCheck::Unchecked,
            is_admitted: false,
        }
    }
}

fn parse(event_type: &str) -> Result<EventType, Problem> {
    EventType::parse(event_type)
        .map_err(|error| Problem::refused_field("event_type_invalid", "event_type", error.to_string()))
}
