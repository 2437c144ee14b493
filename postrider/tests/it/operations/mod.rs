//! What operators see and do: monitoring, retention, server settings, and manual changes to the servers of a running
//! installation.

mod locks;
mod observability;
mod partitions;
mod redis_keys;
mod refusals;
mod retention;
mod servers;
mod tls_to_servers;
