//! The one command, as a library so that its parts can be tested: the command line, what each subcommand
//! does, the private servers of `up`, its demo and the demo's receiver, and the bench.

mod api_client;
pub mod bench;
pub mod cli;
pub mod command;
pub mod demo;
pub mod embedded;
pub mod receive;
