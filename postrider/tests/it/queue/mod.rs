//! The queue, against a real Redis: it is fair, it respects concurrency and rate limits, and it loses nothing.

mod applications;
mod losses;
mod setup;
mod turns;
