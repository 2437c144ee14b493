//! What can be done with events and their deliveries, through the public API.

#[path = "../support/mod.rs"]
mod support;

mod batch;
mod emit;
mod emit_order;
mod event_types;
mod expunge;
mod filters;
mod lists;
mod missing;
mod moved;
mod replay_event;
mod replays;
