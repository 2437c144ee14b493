//! What to do if Redis holds data that the scripts cannot work with: a key of another type, or text where they expect a
//! number. The scripts would fail forever, so all keys are deleted, as if Redis had lost its memory.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{ErrorKind, RedisError};

use super::{Queue, QueueError};

/// How long scripts must have been failing.
const PATIENCE: Duration = Duration::from_secs(3);

/// A failure that comes later than this after another one is unrelated to it. This is also the shortest time between
/// two deletions, because deleting does not help if the script itself is at fault.
const FORGIVEN: Duration = Duration::from_secs(15);

/// The number of keys that one step scans.
const STEP: usize = 1_000;

/// When scripts last failed and keys were last deleted.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<State>);

#[derive(Debug, Default, Clone, Copy)]
struct State {
    since: Option<Instant>,
    forgot: Option<Instant>,
}

impl Failures {
    /// Notes a failure. Returns true if failures have lasted long enough.
    fn note(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        let is_recent = |at: &Instant| now.duration_since(*at) < FORGIVEN;
        if state.forgot.filter(is_recent).is_some() {
            return false;
        }
        let since = *state.since.filter(is_recent).get_or_insert(now);
        let is_due = now.duration_since(since) >= PATIENCE;
        *state = if is_due {
            State { since: None, forgot: Some(now) }
        } else {
            State { since: Some(since), forgot: None }
        };
        is_due
    }
}

impl Queue {
    /// Notes an error. If errors that the content of Redis explains have lasted for some seconds, deletes all keys.
    /// This includes the epoch, so that a relay starts a new one and queues everything open again.
    pub async fn forget_damage(&self, error: &QueueError) {
        let QueueError::Redis(error) = error else { return };
        if !is_damage(error) || !self.failures.note(Instant::now()) {
            return;
        }
        match self.forget().await {
            Ok(()) => tracing::warn!(
                %error,
                prefix = self.base,
                "Redis held data that the queue cannot work with; its keys were deleted and will be rebuilt"
            ),
            Err(error) => tracing::warn!(%error, "could not delete the keys of the queue"),
        }
    }

    /// Deletes all keys, in bounded steps. The epoch is last: until it is gone, no relay queues anything again.
    async fn forget(&self) -> Result<(), QueueError> {
        let mut connection = self.connection.clone();
        let epoch = self.key("epoch").into_bytes();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(self.pattern()).arg("COUNT").arg(STEP);
            let (next, mut keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
            keys.retain(|key| *key != epoch);
            if !keys.is_empty() {
                let _: () = redis::cmd("UNLINK").arg(keys).query_async(&mut connection).await?;
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
        Ok(redis::cmd("UNLINK").arg(epoch).query_async(&mut connection).await?)
    }

    /// Returns a pattern that matches all keys, with special characters of the prefix escaped.
    fn pattern(&self) -> String {
        let mut pattern = String::new();
        for character in self.base.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern + ":*"
    }
}

/// Returns true if the content of Redis explains the error.
fn is_damage(error: &RedisError) -> bool {
    match error.clone().into_server_errors() {
        Some(errors) => errors
            .iter()
            .any(|(_, error)| is_refused_content(error.code(), error.details().unwrap_or_default())),
        None => matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse),
    }
}

fn is_refused_content(code: &str, words: &str) -> bool {
    match code {
        "WRONGTYPE" => true,
        // Other errors with this code do not come from a script: too many clients, for instance. Older servers report
        // an error of a command within a script as an error of the script.
        "ERR" => {
            words.contains("script")
                && !["OOM", "READONLY", "MISCONF"].iter().any(|code| words.contains(code))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_says_of_content_is_damage_and_an_outage_is_none() {
        assert!(is_refused_content("WRONGTYPE", "Operation against a key holding the wrong kind of value"));
        assert!(is_refused_content("ERR", "hash value is not an integer script: 1f, on @user_script:53."));
        assert!(is_refused_content(
            "ERR",
            "user_script:95: attempt to perform arithmetic on a nil value script: 1f"
        ));
        for (code, words) in [
            ("ERR", "max number of clients reached"),
            ("ERR", "Error running script (call to f_1f): @user_script: 9: -OOM command not allowed"),
            ("OOM", "command not allowed when used memory > 'maxmemory'. script: 1f"),
            ("NOSCRIPT", "No matching script. Please use EVAL."),
            ("LOADING", "Redis is loading the dataset in memory"),
        ] {
            assert!(!is_refused_content(code, words), "{code} {words}");
        }
    }

    #[test]
    fn failures_count_when_they_go_on_and_not_again_for_a_while() {
        let failures = Failures::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!failures.note(at(0)));
        assert!(!failures.note(at(16)), "the first failure is long ago");
        assert!(!failures.note(at(17)));
        assert!(failures.note(at(19)));
        assert!(!failures.note(at(22)), "keys were deleted just now");
        assert!(!failures.note(at(33)));
        assert!(!failures.note(at(35)));
        assert!(failures.note(at(38)));
    }
}
