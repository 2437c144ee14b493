//! Producers that mean harm, or are broken as if they did: each is told what is wrong in a problem body,
//! nothing of it is stored, and nobody else notices.

mod bodies;
mod credentials;
mod neighbours;
mod routes;
mod scene;
mod shares;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod unread;
