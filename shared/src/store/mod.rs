//! All SQL. One module for each table or verb; every statement begins with a comment that names it, and
//! that name is what `pg_stat_statements` and the logs show.

pub mod accept;
pub mod api_keys;
pub mod applications;
pub mod attempts;
pub mod audit;
pub mod backlog;
pub mod claim;
pub mod cleanups;
pub mod clock;
mod connect;
pub mod deliveries;
pub mod endpoint_changes;
pub mod endpoint_stats;
pub mod endpoints;
mod error;
pub mod event_types;
pub mod events;
pub mod expire;
pub mod expunge;
pub mod filters;
pub mod headers;
pub mod health;
pub mod inbox;
pub mod ingest;
pub mod leases;
pub mod migrate;
pub mod operational;
pub mod outbox;
pub mod page;
pub mod partitions;
pub mod reconcile;
pub mod record;
pub mod rekey;
pub mod replay_event;
pub mod replay_steps;
pub mod replays;
pub mod secrets;
mod session_settings;
mod sessions;
pub mod start;
pub mod statistics;
pub mod stored_url;
pub mod synthetic;

pub use connect::{Dedicated, Store, connect_dedicated};
pub use error::StoreError;
