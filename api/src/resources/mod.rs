//! The operations, one module per resource.

pub(crate) mod api_keys;
pub(crate) mod applications;
pub(crate) mod attempts;
pub(crate) mod audit_log;
pub(crate) mod deliveries;
pub(crate) mod emit_rejections;
pub(crate) mod endpoints;
pub(crate) mod event_type_request;
pub(crate) mod event_types;
pub(crate) mod events;
pub(crate) mod publish;
pub(crate) mod publish_batch;
pub(crate) mod replay_event;
pub(crate) mod replay_request;
pub(crate) mod replays;
