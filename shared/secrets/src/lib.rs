//! Signing, encryption at rest, and the statements that read or write secrets of endpoints: signing secrets, sensitive
//! headers and URL queries.
//!
//! The relay does not depend on this crate, so it cannot see any of them.

pub mod claim;
pub mod endpoint_changes;
pub mod endpoints;
pub mod headers;
pub mod keyring;
pub mod rekey;
pub mod secrets;
pub mod signing;
pub mod stored_url;
