//! Identifiers, one type each, so that an endpoint's id cannot be passed for an event's.

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
    /// One isolated tenant.
    ApplicationId
);
id!(
    /// A credential of an application.
    ApiKeyId
);
id!(
    /// A receiver's address with its settings.
    EndpointId
);
id!(
    /// What a producer posted, once. Also the `webhook-id` of every attempt to deliver it.
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
    /// What was emitted and could not be accepted.
    EmitRejectionId
);

/// A batch of deliveries that one deliverer has claimed. The token that guards every later write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromSql, ToSql)]
#[postgres(transparent)]
pub struct LeaseId(pub i64);

/// The number of the advisory lock that a running deliverer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromSql, ToSql)]
#[postgres(transparent)]
pub struct DelivererNumber(pub i64);

// Both are remembered outside of PostgreSQL, by deliverers. A sequence would not do: a crash of PostgreSQL can take it
// back behind numbers that it has given out, and then two leases or two deliverers would have the same.

impl LeaseId {
    /// A number that nobody else has.
    #[must_use]
    pub fn draw() -> Self {
        Self(random())
    }
}

impl DelivererNumber {
    /// A number that nobody else has.
    #[must_use]
    pub fn draw() -> Self {
        Self(random())
    }
}

/// 63 random bits.
fn random() -> i64 {
    rand::random::<i64>() & i64::MAX
}
