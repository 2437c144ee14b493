//! Services and servers that are killed, frozen, cut off or restarted. Nothing acknowledged is lost.
//!
//! These tests run one at a time: see `.config/nextest.toml`.

mod outages;
mod processes;
mod random;
