//! The one command, as a library so that its parts can be tested: the command line, what each subcommand
//! does, the demo of `up`, and the receiver of the demo.

pub mod cli;
pub mod command;
pub mod demo;
pub mod receive;
