//! `postrider`: the one command.

use std::process::ExitCode;

fn main() -> ExitCode {
    postrider::command::run()
}
