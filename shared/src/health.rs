//! What a service says of itself at `/health/ready`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The parts a service depends on, each up or down with a reason. Cheap to clone; all clones are one.
#[derive(Clone, Default, Debug)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

/// Said of a part that was not tried yet.
const NOT_YET: &str = "not tried yet";

impl Health {
    /// Says that `part` is needed, and was not tried yet.
    pub fn expect(&self, part: &'static str) {
        self.lock().insert(part, Some(NOT_YET.to_owned()));
    }

    /// Says that `part` works. Logged when it did not before.
    pub fn up(&self, part: &'static str) {
        let before = self.lock().insert(part, None);
        if matches!(before, Some(Some(reason)) if reason != NOT_YET) {
            tracing::info!(part, "works again");
        }
    }

    /// Says that `part` does not work, and why; the reason is shown to anyone: no secrets. Logged when it
    /// did before, so that callers need not, however often they try.
    pub fn down(&self, part: &'static str, reason: impl ToString) {
        let reason = reason.to_string();
        let before = self.lock().insert(part, Some(reason.clone()));
        if !matches!(before, Some(Some(reason)) if reason != NOT_YET) {
            tracing::warn!(part, reason, "does not work; trying again");
        }
    }

    /// Each part with `None` where it works, or the reason why it does not. None yet: the service has not begun.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<&'static str, Option<String>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
