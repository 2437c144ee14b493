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

/// The number under which a running deliverer holds its advisory lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromSql, ToSql)]
#[postgres(transparent)]
pub struct DelivererNumber(pub i32);
