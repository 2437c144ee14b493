//! An event as a producer has written it, checked.

use postrider_domain::event::{NewEvent, Producer, SchemaCheck};
use postrider_domain::event_type::EventType;

use crate::accept::error::InvalidEvent;
use crate::storable_json;

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
    /// With what is wrong with it.
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

    /// An event of Postrider's own, whose type is reserved.
    ///
    /// # Errors
    /// When the event type is not valid.
    pub(crate) fn operational(event_type: &str, data: String) -> Result<Self, InvalidEvent> {
        Ok(Self { event_type: EventType::parse(event_type)?, data: data.into() })
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
