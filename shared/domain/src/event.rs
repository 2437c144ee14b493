//! An event on its way in: who publishes it, and how it is accepted.

use crate::event_type::EventType;
use crate::ids::{ApplicationId, EventId};

/// Who publishes an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Producer {
    /// The holder of the API key with this SHA-256. The accepting statement itself looks it up, so that a revocation
    /// takes effect at once and nothing is cached.
    Key([u8; 32]),
    /// The admin, on behalf of this application.
    Admin(ApplicationId),
}

/// How an event's data relates to the schema of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaCheck {
    /// It was not checked against a schema.
    Unchecked,
    /// It satisfies the schema of this hash.
    Satisfies([u8; 32]),
    /// It violates the schema of this hash.
    Violates([u8; 32]),
}

impl SchemaCheck {
    /// Returns the hash of the schema, or `None` if there was no schema.
    #[must_use]
    pub fn hash(&self) -> Option<&[u8]> {
        match self {
            Self::Unchecked => None,
            Self::Satisfies(hash) | Self::Violates(hash) => Some(hash),
        }
    }
}

/// A validated event, ready to be stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Who publishes it.
    pub producer: Producer,
    /// 1 to 255 visible ASCII characters.
    pub idempotency_key: String,
    /// The type of the event.
    pub event_type: EventType,
    /// A JSON object that PostgreSQL can store, as text.
    pub data: Box<str>,
    /// The result of the schema check. The statement that stores the event compares the hash with that of the current
    /// schema, so that no event is stored on the strength of an outdated one.
    pub schema: SchemaCheck,
    /// True if its application's ingest budget was charged for it. If the application has a limit, the statement
    /// refuses events that were not charged.
    pub is_admitted: bool,
}

/// The result for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The event is committed, either now or earlier under the same key.
    Stored {
        /// The id of the event, or of the earlier one.
        event_id: EventId,
        /// The number of deliveries that were created when it was stored.
        deliveries_queued: i32,
        /// True if the event had already been stored. Nothing was done again.
        duplicate: bool,
        /// The cost of finding these deliveries, expressed in deliveries. It depends on the endpoints that subscribe to
        /// the event type, on the steps of their filters, and on the steps of all patterns.
        cost: i32,
    },
    /// The key is unknown, expired or revoked.
    UnknownKey,
    /// The key does not have the scope to publish.
    Forbidden,
    /// The application does not exist.
    UnknownApplication,
    /// The application is not active.
    InactiveApplication,
    /// The application's ingest is limited, and its budget was not charged.
    NotAdmitted(ApplicationId),
    /// The idempotency key was used for a different event.
    KeyReused,
    /// The application accepts only the event types in its catalogue, and this one is not in it.
    UnknownEventType,
    /// The schema of the type is no longer the one that the data was checked against.
    SchemaChanged(ApplicationId),
    /// The data violates the schema of its type.
    SchemaViolation,
}
