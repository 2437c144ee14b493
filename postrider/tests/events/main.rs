//! What can be done with events and their deliveries, through the public API.

#[path = "../support/mod.rs"]
mod support;

mod batch;
mod lists;
mod replay_event;
