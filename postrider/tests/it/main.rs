//! Tests of the whole system: the services against a real PostgreSQL and Redis, in this process or as processes that
//! can be killed. They form one binary, so that [`support`] is compiled once.

mod support;

mod api;
mod bench;
mod chaos;
mod delivery;
mod docs;
mod embedded;
mod env_example;
mod events;
mod examples;
mod growth;
mod hostile_producers;
mod hostile_receivers;
mod journey;
mod operations;
mod queue;
mod receive;
mod runtime;
mod statements;
mod torture;
