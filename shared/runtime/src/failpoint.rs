//! Named points at which a test kills the process, as a crash would. They do nothing and cost nothing unless the crate
//! is built with the feature `failpoints`, which no release build has.
//!
//! The environment variable `FAILPOINTS` arms a point, in the syntax of the `fail` crate: with
//! `FAILPOINTS="deliverer.after_send=1*return"` the process dies the first time it passes the point. With `panic`
//! instead of `return`, the task that passes it panics.

use tokio::runtime::RuntimeFlavor;

/// Arms the points that the environment names. Call it once, at the start of the process.
pub fn setup() {
    if fail::has_failpoints() {
        // Dropping the scenario would disarm its points, but they must last as long as the process.
        std::mem::forget(fail::FailScenario::setup());
    }
}

/// Kills the process by SIGKILL if the point `name` is armed with `return`. If it is armed with `sleep`, other tasks
/// continue.
pub fn die_at(name: &str) {
    if fail::has_failpoints() {
        beside_other_tasks(|| pass(name));
    }
}

fn pass(name: &str) {
    let _ = name;
    fail::fail_point!(name, |_| {
        tracing::error!(point = name, "failpoint: dying");
        let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
        // The signal is on its way. Do nothing more until it arrives.
        loop {
            std::thread::park();
        }
    });
}

/// Runs `pass` so that a worker that sleeps in it does not hold up the signals and timers of its runtime.
fn beside_other_tasks(pass: impl FnOnce()) {
    match tokio::runtime::Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(pass)
        }
        _ => pass(),
    }
}

/// Like [`die_at`], for the point `name:detail`: to select one of many callers that pass the same point.
pub fn die_at_for(name: &str, detail: &str) {
    if fail::has_failpoints() {
        die_at(&format!("{name}:{detail}"));
    }
}
