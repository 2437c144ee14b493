//! What every part of Postrider agrees on: the domain's types, all SQL ([`store`]), all Redis
//! ([`queue`]), signing, retry policy, the address guard, configuration and telemetry.
//!
//! No HTTP and no loops: those belong to the services.

pub mod address;
pub mod config;
pub mod delivery;
pub mod event_type;
pub mod failpoint;
pub mod filter;
pub mod health;
pub mod ids;
pub mod keyring;
pub mod named;
pub mod queue;
pub mod retry;
pub mod share;
pub mod signing;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod trust;
