//! Shares of a bounded resource. A single holder may use nearly all of it, but a reserve always remains for those that
//! hold little.
//!
//! The rule is the dynamic threshold of shared-memory switches (Choudhury and Hahne, 1998): a holder gets no more if it
//! would then hold over eight times what is left. One holder can therefore reach 8/9 of the capacity, two can reach
//! 8/17 each, and so on. What is released goes to the waiting holders in turn.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// How much a holder may have for each unit that is free.
pub const FACTOR: u64 = 8;

/// A resource with a fixed capacity, in units that the caller chooses. All clones share it.
#[derive(Debug)]
pub struct Shares<K: Eq + Hash + Clone>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K: Eq + Hash + Clone> {
    capacity: u64,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K: Eq + Hash + Clone> {
    free: u64,
    /// Only holders that hold something.
    held: HashMap<K, u64>,
    lines: HashMap<K, VecDeque<Waiter<K>>>,
    /// The holders that wait, in the order in which they are served.
    turns: VecDeque<K>,
}

#[derive(Debug)]
struct Waiter<K: Eq + Hash + Clone> {
    amount: u64,
    granted: oneshot::Sender<Share<K>>,
}

/// What a holder has. Dropping it releases it.
#[derive(Debug)]
#[must_use = "a share is released when it is dropped"]
pub struct Share<K: Eq + Hash + Clone> {
    shares: Shares<K>,
    key: K,
    amount: u64,
}

impl<K: Eq + Hash + Clone> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Creates a resource of which nothing is held.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let state =
            State { free: capacity, held: HashMap::new(), lines: HashMap::new(), turns: VecDeque::new() };
        Self(Arc::new(Inner { capacity, state: Mutex::new(state) }))
    }

    /// Creates a resource that one holder has at a time, in turn: the rule never grants the second of its two units.
    #[must_use]
    pub fn one_at_a_time() -> Self {
        Self::new(2)
    }

    /// Returns what is free.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.state().free
    }

    /// Returns what one holder has.
    #[must_use]
    pub fn held(&self, key: &K) -> u64 {
        self.state().held_by(key)
    }

    /// Returns the most that one holder may take now.
    #[must_use]
    pub fn may_take(&self, key: &K) -> u64 {
        self.state().may_take(key)
    }

    /// Returns the most that one holder may ever have.
    #[must_use]
    pub fn most(&self) -> u64 {
        may_take(self.0.capacity, 0)
    }

    /// Takes `amount` if the holder's share allows it now and no earlier request of the holder is waiting.
    pub fn try_acquire(&self, key: &K, amount: u64) -> Option<Share<K>> {
        let mut state = self.state();
        if state.lines.contains_key(key) || !state.take(key, amount) {
            return None;
        }
        drop(state);
        Some(self.share(key, amount))
    }

    /// Takes `amount` as soon as the holder's share allows it. Returns `None` if that can never happen, or does not
    /// happen within `patience`. The requests of one holder are served in order.
    pub async fn acquire(&self, key: &K, amount: u64, patience: Duration) -> Option<Share<K>> {
        let granted = {
            let mut state = self.state();
            if amount > self.most() {
                return None;
            }
            if !state.lines.contains_key(key) && state.take(key, amount) {
                drop(state);
                return Some(self.share(key, amount));
            }
            let (sender, granted) = oneshot::channel();
            state.wait(key, Waiter { amount, granted: sender });
            granted
        };
        tokio::time::timeout(patience, granted).await.ok()?.ok()
    }

    fn share(&self, key: &K, amount: u64) -> Share<K> {
        Share { shares: self.clone(), key: key.clone(), amount }
    }

    fn release(&self, key: &K, amount: u64) {
        let mut state = self.state();
        state.give_back(key, amount);
        let granted = state.serve();
        drop(state);
        for (key, waiter) in granted {
            // If the waiter has given up, the share is dropped here and the next waiter is served.
            let _ = waiter.granted.send(self.share(&key, waiter.amount));
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // No code panics between two changes that belong together.
        self.0.state.lock()
    }
}

impl<K: Eq + Hash + Clone> Share<K> {
    /// Returns the amount of this share.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes `more` if the holder's share allows it now. Returns whether it did.
    #[must_use]
    pub fn grow(&mut self, more: u64) -> bool {
        let is_granted = self.shares.state().take(&self.key, more);
        if is_granted {
            self.amount += more;
        }
        is_granted
    }

    /// Releases all but `amount`.
    pub fn shrink(&mut self, amount: u64) {
        let surplus = self.amount.saturating_sub(amount);
        if surplus > 0 {
            self.amount -= surplus;
            self.shares.release(&self.key, surplus);
        }
    }

    /// Splits off a part that is released separately.
    pub fn split(&mut self, amount: u64) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { shares: self.shares.clone(), key: self.key.clone(), amount }
    }
}

impl<K: Eq + Hash + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.shares.release(&self.key, self.amount);
        }
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    fn held_by(&self, key: &K) -> u64 {
        self.held.get(key).copied().unwrap_or_default()
    }

    fn may_take(&self, key: &K) -> u64 {
        may_take(self.free, self.held_by(key))
    }

    fn take(&mut self, key: &K, amount: u64) -> bool {
        let is_granted = amount <= self.may_take(key);
        if is_granted && amount > 0 {
            self.free -= amount;
            *self.held.entry(key.clone()).or_default() += amount;
        }
        is_granted
    }

    fn give_back(&mut self, key: &K, amount: u64) {
        self.free += amount;
        if let Some(held) = self.held.get_mut(key) {
            *held -= amount;
            if *held == 0 {
                self.held.remove(key);
            }
        }
    }

    fn wait(&mut self, key: &K, waiter: Waiter<K>) {
        let line = self.lines.entry(key.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(key.clone());
        }
        // Otherwise waiters that have given up would pile up while nothing is released.
        line.retain(|other| !other.granted.is_closed());
        line.push_back(waiter);
    }

    /// Grants shares to waiters, one per holder in turn, until no holder may have more.
    fn serve(&mut self) -> Vec<(K, Waiter<K>)> {
        let mut granted = Vec::new();
        let mut passed_over = 0;
        while passed_over < self.turns.len() {
            let Some(key) = self.turns.pop_front() else { break };
            let Some(mut line) = self.lines.remove(&key) else { continue };
            while line.front().is_some_and(|waiter| waiter.granted.is_closed()) {
                line.pop_front();
            }
            passed_over += 1;
            if let Some(waiter) = line.pop_front() {
                if self.take(&key, waiter.amount) {
                    granted.push((key.clone(), waiter));
                    passed_over = 0;
                } else {
                    line.push_front(waiter);
                }
            }
            if !line.is_empty() {
                self.turns.push_back(key.clone());
                self.lines.insert(key, line);
            }
        }
        granted
    }
}

/// Returns the most that a holder of `held` units may take while `free` units are left: the largest amount for which
/// `held + amount <= FACTOR * (free - amount)`.
#[must_use]
pub fn may_take(free: u64, held: u64) -> u64 {
    (FACTOR.saturating_mul(free).saturating_sub(held) / (FACTOR + 1)).min(free)
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
