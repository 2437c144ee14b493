//! What every Postrider process needs: settings, logs, metrics, health, supervised tasks, failpoints and TLS roots.

pub mod config;
pub mod every;
pub mod failpoint;
pub mod health;
pub mod supervise;
pub mod telemetry;
pub mod tls_roots;
