//! An event on its way in: who posts it, and what becomes of it.

use crate::event_type::EventType;
use crate::ids::{ApplicationId, EventId};

/// Who posts an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Producer {
    /// Whoever holds the API key of this SHA-256. It is looked up by the statement itself, so that a
    /// revocation takes effect at once and nothing is cached.
    Key([u8; 32]),
    /// The admin, for this application.
    Admin(ApplicationId),
}

/// What is known of an event's data and the schema of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaCheck {
    /// It was checked against none.
    Unchecked,
    /// It satisfies the schema of this hash.
    Satisfies([u8; 32]),
    /// It violates the schema of this hash.
    Violates([u8; 32]),
}

impl SchemaCheck {
    /// The schema's hash; `None`: there was no schema.
    #[must_use]
    pub fn hash(&self) -> Option<&[u8]> {
        match self {
            Self::Unchecked => None,
            Self::Satisfies(hash) | Self::Violates(hash) => Some(hash),
        }
    }
}

/// An event that was validated and is to be stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Who posts it.
    pub producer: Producer,
    /// 1 to 255 visible ASCII characters.
    pub idempotency_key: String,
    /// Its type.
    pub event_type: EventType,
    /// A JSON object that PostgreSQL can hold, as text.
    pub data: Box<str>,
    /// Whether the data was checked against the schema of its type. The statement that stores the event
    /// compares it with the schema of that moment, so that nothing is stored by an outdated one.
    pub schema: SchemaCheck,
    /// The budget of its application was asked for it. Where that is limited, the statement refuses what was not.
    pub is_admitted: bool,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored and can no longer be lost; or it was before, under the same key.
    Stored {
        /// Its id.
        event_id: EventId,
        /// The deliveries that were made when it was stored.
        deliveries_queued: i32,
        /// True when it had been stored before; nothing was done again.
        duplicate: bool,
        /// What it cost to find them, in deliveries: by the endpoints that subscribe to its type, the steps of their
        /// filters and those of all patterns.
        cost: i32,
    },
    /// The key is unknown, expired or revoked.
    UnknownKey,
    /// The key may not publish.
    Forbidden,
    /// There is no such application.
    UnknownApplication,
    /// The application is not active.
    InactiveApplication,
    /// What the application may publish is limited, and its budget was not asked.
    NotAdmitted(ApplicationId),
    /// The idempotency key belongs to a different event.
    KeyReused,
    /// The application knows its event types, and this is none of them.
    UnknownEventType,
    /// The type has another schema than the one that the data was checked against, or none any more.
    SchemaChanged(ApplicationId),
    /// The data violates the schema of its type.
    SchemaViolation,
}
