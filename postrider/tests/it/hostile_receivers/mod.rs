//! Receivers that are malicious, or broken in the same way: what is recorded about them, that each costs no more than
//! its timeout, and that a healthy endpoint beside them is not affected.

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
