//! Named points at which a test kills the process, as a crash would. They cost nothing and do nothing
//! unless the crate is built with the feature `failpoints`, which no release build has.
//!
//! A point is armed by the environment variable `FAILPOINTS`, in the syntax of the `fail` crate:
//! `FAILPOINTS="deliverer.after_send=1*return"` dies at the first passage, and with `panic` instead of `return` the
//! task that passes panics.

use tokio::runtime::RuntimeFlavor;

/// Arms the points that the environment names. Call once, at the start of the process.
pub fn setup() {
    if fail::has_failpoints() {
        // The scenario disarms its points when dropped: they are to last as long as the process.
        std::mem::forget(fail::FailScenario::setup());
    }
}

/// Dies here by SIGKILL where the point `name` is armed with `return`. Where it is armed with `sleep`, other tasks go on.
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
        // The signal is on its way: do nothing more meanwhile.
        loop {
            std::thread::park();
        }
    });
}

/// A worker that sleeps would keep the signals and timers of its runtime from everybody.
fn beside_other_tasks(pass: impl FnOnce()) {
    match tokio::runtime::Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(pass)
        }
        _ => pass(),
    }
}

/// As [`die_at`], at the point `name:detail`: for one among many that pass here.
pub fn die_at_for(name: &str, detail: &str) {
    if fail::has_failpoints() {
        die_at(&format!("{name}:{detail}"));
    }
}
