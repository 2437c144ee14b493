//! The life of a delivery, the outcome of one attempt, and the life of a bulk replay.

use crate::named::named;

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
        /// Sends events where no delivery of them has succeeded.
        Missing = "missing",
    }
}

named! {
    /// `pending → running → completed`, and `cancelled` from each of them, or `failed`.
    ReplayStatus {
        /// Not begun.
        Pending = "pending",
        /// Under way, step by step.
        Running = "running",
        /// All is queued.
        Completed = "completed",
        /// Withdrawn.
        Cancelled = "cancelled",
        /// It could not go on.
        Failed = "failed",
    }
}
