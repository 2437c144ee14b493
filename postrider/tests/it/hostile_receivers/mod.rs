//! Receivers that mean harm, or are broken as if they did: what is recorded of them, that each costs no more
//! than its timeout, and that a healthy endpoint beside them does not notice.

mod addresses;
mod answers;
mod bounds;
mod descriptors;
mod dialling;
mod egress;
mod endings;
mod heads;
mod isolation;
mod name_server;
mod setup;
mod tls;
