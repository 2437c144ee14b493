//! What can be done with events and their deliveries through the public API.

mod batch;
mod emit;
mod emit_order;
mod event_types;
mod expunge;
mod filters;
mod lists;
mod manual_actions;
mod missing;
mod operational_events;
mod replay_event;
mod replays;
