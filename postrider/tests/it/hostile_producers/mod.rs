//! Producers that are malicious, or broken in the same way: each gets a problem body that says what is wrong, nothing
//! of the request is stored, and no other producer is affected.

mod bodies;
mod credentials;
mod other_requests;
mod routes;
mod setup;
mod shares;
mod sockets;
mod unread;
