//! How deliveries progress: fair shares, order, concurrent changes, and records that must not be lost.

mod fairness;
mod lost_in_redis;
mod old_transaction;
mod ordered_endpoints;
mod races;
mod records;
