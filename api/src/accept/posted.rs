//! An event as a producer sent it, checked.

use postrider_domain::event::{NewEvent, Producer, SchemaCheck};
use postrider_domain::event_type::EventType;

use crate::accept::error::InvalidEvent;
use crate::storable_json;

/// The parts of an event that are stored.
#[derive(Debug)]
pub(crate) struct Posted {
    /// The event type, whose syntax is valid.
    pub(crate) event_type: EventType,
    /// The JSON object, exactly as sent.
    pub(crate) data: Box<str>,
}

impl Posted {
    /// Checks everything that would prevent an event from being stored.
    ///
    /// # Errors
    /// The first rule that the event type or the data breaks.
    pub(crate) fn check(event_type: &str, data: &str) -> Result<Self, InvalidEvent> {
        let event_type = EventType::parse(event_type)?;
        if event_type.is_reserved() {
            return Err(InvalidEvent::ReservedEventType);
        }
        if !data.starts_with('{') {
            return Err(InvalidEvent::NotAnObject);
        }
        storable_json::check(data)?;
        Ok(Self { event_type, data: data.into() })
    }

    /// Returns an operational event. Its type is reserved.
    ///
    /// # Errors
    /// If the event type is not valid.
    pub(crate) fn operational(event_type: &str, data: String) -> Result<Self, InvalidEvent> {
        Ok(Self { event_type: EventType::parse(event_type)?, data: data.into() })
    }

    /// Turns it into an event to accept. Its schema and the rate limit of its application have not been checked yet.
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
