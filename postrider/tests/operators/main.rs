//! What people do by hand to the servers of a running installation: partitions are detached, tables locked, sessions
//! refused, keys overwritten.

#[path = "../support/mod.rs"]
mod support;

mod locks;
mod partitions;
mod redis_keys;
mod refusals;
