//! The life of a delivery, the outcome of one attempt, and the life of a bulk replay.

/// The life of a delivery: `pending → in_progress → succeeded | failed | dead_letter`. A `failed` one is retried. An
/// open one can become `cancelled`.
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
    /// Closed: an attempt got a 2xx response.
    Succeeded,
    /// The last attempt failed and another is due.
    Failed,
    /// Closed: no attempt is left, or no attempt can help.
    DeadLetter,
    /// Closed: cancelled, or its endpoint was deleted.
    Cancelled,
}

crate::text_enum!(DeliveryStatus);

impl DeliveryStatus {
    /// Returns true if nothing more happens without a manual retry or a replay.
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
    /// The response was 2xx.
    Succeeded,
    /// The attempt failed in a known way.
    Failed,
    /// The deliverer died before it recorded the attempt, so it is unknown whether the request was sent.
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
    /// No connection could be established.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The exchange took longer than the endpoint's timeout.
    Timeout,
    /// The address is one that webhooks are not sent to.
    RefusedAddress,
    /// The exchange broke off, or the response was not 2xx.
    Http,
    /// No request could be built from the stored event and endpoint.
    Unrenderable,
    /// The deliverer itself failed, so the receiver is not at fault.
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
    /// Creates new deliveries of events.
    Replay,
    /// Reopens deliveries.
    Redrive,
    /// Sends events to endpoints that have no successful delivery of them.
    Missing,
}

crate::text_enum!(ReplayMode);

/// `pending → running → completed`. Each of these can become `cancelled`. A replay that cannot continue becomes
/// `failed`.
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
    /// Not started.
    Pending,
    /// In progress, in steps.
    Running,
    /// Everything is queued.
    Completed,
    /// Cancelled.
    Cancelled,
    /// A step failed permanently.
    Failed,
}

crate::text_enum!(ReplayStatus);
