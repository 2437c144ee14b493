//! The queue, against a real Redis: fair, bounded by concurrency and rate, and nothing is forgotten.

#[path = "../support/mod.rs"]
mod support;

mod applications;
mod losses;
mod scene;
mod turns;
