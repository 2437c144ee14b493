//! The reasons why an event is not accepted. [`web`](crate::web) translates them into responses.

use std::time::Duration;

use postrider_domain::event_type::{EventTypeError, RESERVED_PREFIX};
use postrider_store::StoreError;

use crate::schema::{SchemaError, Violation};
use crate::storable_json::Defect;

/// Why an event was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AcceptError {
    /// A field of the event is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// The data violates the schema of its type.
    #[error("the data violates the schema of its event type")]
    SchemaViolation(Vec<Violation>),
    /// The data could not be checked against the schema of its type.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The idempotency key belongs to a different event.
    #[error("the idempotency key was already used for a different event")]
    KeyReused,
    /// The API key is unknown, expired or revoked.
    #[error("the API key is unknown, expired or revoked")]
    UnknownKey,
    /// The API key does not have the scope to publish.
    #[error("the API key does not have the `publish` scope")]
    Forbidden,
    /// The application does not exist.
    #[error("the application does not exist")]
    UnknownApplication,
    /// The application is not active.
    #[error("the application is not active")]
    InactiveApplication,
    /// The application has used up its ingest rate limit. The next event can be accepted after this time.
    #[error("the application has exceeded its ingest rate limit")]
    RateLimited(Duration),
    /// The schema of the event type changed on every try.
    #[error("the schema of the event type keeps changing")]
    SchemaChanging,
    /// The application got its ingest rate limit during the last try.
    #[error("the ingest rate limit of the application is changing")]
    RateLimitChanging,
    /// Another transaction holds the idempotency key.
    #[error("another transaction holds the idempotency key")]
    KeyBusy,
    /// Another transaction holds something else that the event needs, most likely a whole table.
    #[error("another transaction holds a lock that the event needs")]
    Busy,
    /// PostgreSQL is unavailable.
    #[error("PostgreSQL is unavailable")]
    Unavailable,
    /// Storing the event took longer than one event may take.
    #[error("storing the event took too long")]
    TooCostly,
    /// Too many events are waiting.
    #[error("too many events are waiting")]
    Overloaded,
    /// The service is shutting down.
    #[error("the service is shutting down")]
    Stopping,
    /// A defect of this program, which has been logged.
    #[error("an internal error occurred")]
    Internal,
}

/// What is wrong with a field of an event. The message completes a sentence that begins with the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidEvent {
    /// The event type is not valid.
    #[error(transparent)]
    EventType(#[from] EventTypeError),
    /// The event type is reserved for Postrider's own events.
    #[error("must not start with `{RESERVED_PREFIX}`, which is reserved for Postrider's own events")]
    ReservedEventType,
    /// The event type is not in the catalogue of an application that accepts no other types.
    #[error(
        "is not in the event type catalogue of the application, and the application only accepts types of \
         its catalogue; add the type first"
    )]
    UnknownEventType,
    /// The idempotency key is not valid.
    #[error("must have 1 to 255 visible ASCII characters, without spaces")]
    IdempotencyKey,
    /// The data is JSON, but not an object.
    #[error("must be a JSON object")]
    NotAnObject,
    /// The data cannot be stored unchanged.
    #[error(transparent)]
    Data(#[from] Defect),
    /// PostgreSQL refused the data for a reason that [`Defect`] does not cover.
    #[error("cannot be stored in the database; look for unusual numbers or characters")]
    NotStorable,
}

impl AcceptError {
    /// Returns true if the same event may be accepted later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::SchemaViolation(_)
            | Self::KeyReused
            | Self::UnknownKey
            | Self::Forbidden
            | Self::UnknownApplication
            | Self::InactiveApplication => false,
            Self::Schema(error) => error.is_retryable(),
            Self::RateLimited(_)
            | Self::SchemaChanging
            | Self::RateLimitChanging
            | Self::KeyBusy
            | Self::Busy
            | Self::Unavailable
            | Self::TooCostly
            | Self::Overloaded
            | Self::Stopping
            | Self::Internal => true,
        }
    }
}

/// For the reads that precede storing an event.
impl From<StoreError> for AcceptError {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            tracing::debug!(%error, "an event was not accepted");
            Self::Unavailable
        } else if error.is_contention() {
            Self::Busy
        } else if error.is_data_error() {
            InvalidEvent::NotStorable.into()
        } else {
            tracing::error!(%error, "a statement failed");
            Self::Internal
        }
    }
}
