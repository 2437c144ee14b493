//! Types and rules that all parts of Postrider share. Nothing here does I/O.

pub mod address;
pub mod attempt;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod event_type;
pub mod filter;
pub mod ids;
pub mod retry;
pub mod share;
mod text_enum;
