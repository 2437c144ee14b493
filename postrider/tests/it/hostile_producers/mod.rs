//! Producers that mean harm, or are broken as if they did: each is told what is wrong in a problem body,
//! nothing of it is stored, and nobody else notices.

mod bodies;
mod credentials;
mod other_requests;
mod routes;
mod setup;
mod shares;
mod sockets;
mod unread;
