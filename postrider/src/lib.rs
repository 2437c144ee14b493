//! The `postrider` command, as a library so that its parts can be tested: the command line, the subcommands, the demo of
//! `postrider up`, and the demo's receiver.
//!
//! # The crates, in the order of an event's life
//!
//! | crate | what it does with an event |
//! |---|---|
//! | [`postrider_api`](../postrider_api/index.html) | checks it and stores it, with its deliveries and their outbox rows, in one transaction; then responds 202 |
//! | [`postrider_relay`](../postrider_relay/index.html) | takes outbox rows that are due and pushes the ids of their deliveries to Redis |
//! | [`postrider_queue`](../postrider_queue/index.html) | keeps these ids in Redis, in one queue per endpoint, and decides whose turn it is |
//! | [`postrider_deliverer`](../postrider_deliverer/index.html) | reserves ids, claims their deliveries in PostgreSQL, signs and sends webhooks, and records each attempt |
//!
//! They use these:
//!
//! | crate | what it contains |
//! |---|---|
//! | [`postrider_domain`](../postrider_domain/index.html) | types and rules without I/O: ids, statuses, retry schedules, filters, permitted addresses |
//! | [`postrider_store`](../postrider_store/index.html) | all SQL except what touches secrets |
//! | [`postrider_secrets`](../postrider_secrets/index.html) | signing, encryption at rest, and the SQL that touches secrets. The relay does not depend on it |
//! | [`postrider_runtime`](../postrider_runtime/index.html) | what every process has: settings, logs, metrics, health, background tasks |
//!
//! And these are for people who try, test and measure:
//!
//! | crate | what it contains |
//! |---|---|
//! | [`postrider_embedded`](../postrider_embedded/index.html) | the private PostgreSQL and Redis of `postrider up` |
//! | [`postrider_api_client`](../postrider_api_client/index.html) | a small client of the API |
//! | [`postrider_bench`](../postrider_bench/index.html) | `postrider bench` |
//!
//! `ARCHITECTURE.md` describes the same path with its guarantees and failure modes.

pub mod cli;
pub mod command;
pub mod demo;
pub mod receive;
