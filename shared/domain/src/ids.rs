//! Identifiers. Each has its own type, so that an endpoint's id cannot be passed for an event's.

use std::fmt;
use std::str::FromStr;

use postgres_types::{FromSql, ToSql};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, FromSql, ToSql,
        )]
        #[serde(transparent)]
        #[postgres(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// An application: an isolated tenant.
    ApplicationId
);
id!(
    /// A credential of an application.
    ApiKeyId
);
id!(
    /// A receiver's URL with its settings.
    EndpointId
);
id!(
    /// An event that a producer published. It is also the `webhook-id` of every attempt to deliver the event.
    EventId
);
id!(
    /// One event on its way to one endpoint.
    DeliveryId
);

id!(
    /// A bulk replay.
    ReplayId
);

id!(
    /// An emitted event that could not be accepted.
    EmitRejectionId
);

/// A batch of deliveries that one deliverer has claimed. This token guards every later write to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromSql, ToSql)]
#[postgres(transparent)]
pub struct LeaseId(pub i64);

/// The number of the advisory lock that a running deliverer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromSql, ToSql)]
#[postgres(transparent)]
pub struct DelivererNumber(pub i64);

// Deliverers remember both outside PostgreSQL, so a sequence would not be safe: a crash of PostgreSQL can set it back
// to numbers that it has already given out, and two leases or two deliverers would share a number.

impl LeaseId {
    /// Draws a random number, which is unique for all practical purposes.
    #[must_use]
    pub fn draw() -> Self {
        Self(random())
    }
}

impl DelivererNumber {
    /// Draws a random number, which is unique for all practical purposes.
    #[must_use]
    pub fn draw() -> Self {
        Self(random())
    }
}

/// Returns 63 random bits.
fn random() -> i64 {
    rand::random::<i64>() & i64::MAX
}
