//! The life of a delivery, the outcome of one attempt, and the life of a bulk replay.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::types::{FromSql, Type, to_sql_checked};
use tokio_postgres::types::{IsNull, ToSql};

/// A text that names no variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind}: `{text}`")]
pub struct UnknownName {
    kind: &'static str,
    text: String,
}

/// An enum that PostgreSQL, the API and the metrics know by the same snake_case names.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All of them, in the order of life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in the database and the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(UnknownName { kind: stringify!($name), text: text.to_owned() }),
                }
            }
        }

        impl<'a> FromSql<'a> for $name {
            fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
                Ok(<&str>::from_sql(ty, raw)?.parse()?)
            }

            fn accepts(ty: &Type) -> bool {
                <&str as FromSql>::accepts(ty)
            }
        }

        impl ToSql for $name {
            fn to_sql(
                &self,
                ty: &Type,
                out: &mut bytes::BytesMut,
            ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
                self.as_str().to_sql(ty, out)
            }

            fn accepts(ty: &Type) -> bool {
                <&str as ToSql>::accepts(ty)
            }

            to_sql_checked!();
        }
    };
}

named! {
    /// `pending → in_progress → succeeded | failed | dead_letter`, and `cancelled`.
    DeliveryStatus {
        /// Not attempted yet.
        Pending = "pending",
        /// Leased by a deliverer.
        InProgress = "in_progress",
        /// Closed: an attempt was answered 2xx.
        Succeeded = "succeeded",
        /// The last attempt failed and another is due.
        Failed = "failed",
        /// Closed: no attempt is left, or none can help.
        DeadLetter = "dead_letter",
        /// Closed: withdrawn, or its endpoint was deleted.
        Cancelled = "cancelled",
    }
}

impl DeliveryStatus {
    /// True where nothing more happens by itself.
    #[must_use]
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Succeeded | Self::DeadLetter | Self::Cancelled)
    }
}

named! {
    /// How an attempt ended.
    AttemptOutcome {
        /// Answered 2xx.
        Succeeded = "succeeded",
        /// Anything else that is known.
        Failed = "failed",
        /// The deliverer vanished before it could record: sent or not, nobody knows.
        Unknown = "unknown",
    }
}

named! {
    /// Where a failed attempt failed.
    ErrorClass {
        /// The name could not be resolved.
        Dns = "dns",
        /// No connection could be made.
        Connect = "connect",
        /// No TLS session could be agreed on.
        Tls = "tls",
        /// The exchange took longer than the endpoint allows.
        Timeout = "timeout",
        /// The address is not one that webhooks are sent to.
        RefusedAddress = "refused_address",
        /// The exchange broke, or the answer was not 2xx.
        Http = "http",
        /// The request could not be made of the stored event or endpoint.
        Unrenderable = "unrenderable",
        /// The deliverer itself failed.
        Internal = "internal",
    }
}

named! {
    /// What a bulk replay does.
    ReplayMode {
        /// Makes new deliveries of events.
        Replay = "replay",
        /// Opens deliveries again.
        Redrive = "redrive",
    }
}

named! {
    /// `pending → running → completed`, and `cancelled` or `failed`.
    ReplayStatus {
        /// Not begun.
        Pending = "pending",
        /// Under way, step by step.
        Running = "running",
        /// It has come to its end.
        Completed = "completed",
        /// Withdrawn.
        Cancelled = "cancelled",
        /// It could not go on.
        Failed = "failed",
    }
}
