//! The life of a delivery, the outcome of one attempt, and the life of a bulk replay.

/// `pending → in_progress → succeeded | failed | dead_letter`, and `cancelled`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum DeliveryStatus {
    /// Not attempted yet.
    Pending,
    /// Leased by a deliverer.
    InProgress,
    /// Closed: an attempt was answered 2xx.
    Succeeded,
    /// The last attempt failed and another is due.
    Failed,
    /// Closed: no attempt is left, or none can help.
    DeadLetter,
    /// Closed: withdrawn, or its endpoint was deleted.
    Cancelled,
}

crate::text_enum!(DeliveryStatus);

impl DeliveryStatus {
    /// True where nothing more happens by itself.
    #[must_use]
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Succeeded | Self::DeadLetter | Self::Cancelled)
    }
}

/// How an attempt ended.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum AttemptOutcome {
    /// Answered 2xx.
    Succeeded,
    /// Anything else that is known.
    Failed,
    /// The deliverer vanished before it could record: sent or not, nobody knows.
    Unknown,
}

crate::text_enum!(AttemptOutcome);

/// Where a failed attempt failed.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum ErrorClass {
    /// The name could not be resolved.
    Dns,
    /// No connection could be made.
    Connect,
    /// No TLS session could be agreed on.
    Tls,
    /// The exchange took longer than the endpoint allows.
    Timeout,
    /// The address is not one that webhooks are sent to.
    RefusedAddress,
    /// The exchange broke, or the answer was not 2xx.
    Http,
    /// The request could not be made of the stored event or endpoint.
    Unrenderable,
    /// The deliverer itself failed.
    Internal,
}

crate::text_enum!(ErrorClass);

/// What a bulk replay does.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum ReplayMode {
    /// Makes new deliveries of events.
    Replay,
    /// Opens deliveries again.
    Redrive,
    /// Sends events where no delivery of them has succeeded.
    Missing,
}

crate::text_enum!(ReplayMode);

/// `pending → running → completed`, and `cancelled` from each of them, or `failed`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum ReplayStatus {
    /// Not begun.
    Pending,
    /// Under way, step by step.
    Running,
    /// All is queued.
    Completed,
    /// Withdrawn.
    Cancelled,
    /// It could not go on.
    Failed,
}

crate::text_enum!(ReplayStatus);
