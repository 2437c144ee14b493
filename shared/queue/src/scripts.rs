//! The Lua scripts. Each is preceded by the functions that they share.

use redis::Script;

/// The scripts of the queue.
#[derive(Clone)]
pub(super) struct Scripts {
    pub(super) push: Script,
    pub(super) reserve: Script,
    pub(super) acknowledge: Script,
    pub(super) extend: Script,
}

macro_rules! script {
    ($name:literal) => {
        Script::new(concat!(
            include_str!("scripts/eligibility.lua"),
            include_str!(concat!("scripts/", $name, ".lua"))
        ))
    };
}

impl Scripts {
    pub(super) fn load() -> Self {
        Self {
            push: script!("push"),
            reserve: script!("reserve"),
            acknowledge: script!("acknowledge"),
            extend: script!("extend"),
        }
    }
}
