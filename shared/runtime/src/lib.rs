//! What every Postrider process has: settings, logs, metrics, health, supervised tasks, failpoints, TLS roots.

pub mod config;
pub mod every;
pub mod failpoint;
pub mod health;
pub mod supervise;
pub mod telemetry;
pub mod tls_roots;
