//! Services and servers are killed, frozen, cut off or restarted, and nothing acknowledged is lost.
//!
//! These tests run one at a time: see `.config/nextest.toml`.

mod outages;
mod processes;
mod random;
