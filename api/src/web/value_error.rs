//! Why a text is refused as the value of a parameter or field.

use postrider_domain::event_type::EventTypeError;

use crate::storable_json::Defect;

/// Why a text is refused. The message completes a sentence that begins with the name of the parameter or field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    /// Not a UUID.
    #[error("must be a UUID")]
    Id,
    /// Neither an id nor the name of an event type.
    #[error("must be a UUID, or the name of an event type")]
    ResourceId,
    /// Not a uid, because of its length or its characters.
    #[error("must have 1 to 255 characters, only letters, digits and `. _ - : @ + | ~ =`")]
    UidCharacters,
    /// Not a uid: a path with it could change its meaning.
    #[error("must not start with a period")]
    UidPeriod,
    /// Not a uid: it has the form of an id.
    #[error("must not be a UUID, because it could be mistaken for an id")]
    UidIsId,
    /// Not a number, or out of range.
    #[error("must be a whole number from {least} to {most}")]
    Number {
        /// The smallest allowed number.
        least: u32,
        /// The largest allowed number.
        most: u32,
    },
    /// Not a number of seconds, or out of range.
    #[error("must be a whole number of seconds from {least} to {most}")]
    Seconds {
        /// The smallest allowed number.
        least: i64,
        /// The largest allowed number.
        most: i64,
    },
    /// Not an HTTP status.
    #[error("must be an HTTP status from 100 to 599")]
    HttpStatus,
    /// Not a time.
    #[error(
        "must be an RFC 3339 time up to the year 9999, such as `2026-01-31T12:00:00Z` or \
         `2026-01-31T13:00:00+01:00`"
    )]
    Time,
    /// Neither true nor false.
    #[error("must be `true` or `false`")]
    Boolean,
    /// Not one of these names.
    #[error("must be one of {0}")]
    Name(String),
    /// Not a cursor.
    #[error("must be the `next_cursor` of the previous page")]
    Cursor,
    /// Not an event type.
    #[error(transparent)]
    EventType(#[from] EventTypeError),
    /// Not JSON.
    #[error("must be valid JSON, such as `{{\"currency\":\"EUR\"}}`")]
    NotJson,
    /// JSON, but not an object.
    #[error("must be a JSON object, such as `{{\"currency\":\"EUR\"}}`")]
    NotAnObject,
    /// JSON that PostgreSQL cannot store.
    #[error(transparent)]
    Json(#[from] Defect),
}
