//! The queue, against a real Redis: fair, bounded by concurrency and rate, and nothing is forgotten.

mod applications;
mod losses;
mod setup;
mod turns;
