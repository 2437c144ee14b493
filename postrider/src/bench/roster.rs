//! The processes of an installation, and what they have used. Those that are killed take nothing with them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::procfs;

/// PostgreSQL, whose sessions are processes of their own.
pub(super) const POSTGRES: &str = "postgresql";
/// Redis.
pub(super) const REDIS: &str = "redis";
/// This process: producers and receiver.
pub(super) const BENCH: &str = "bench";

/// Everybody whose CPU time and memory can be told.
#[derive(Default)]
pub(super) struct Roster(Mutex<Vec<Member>>);

/// What the processes of one name have used until some moment.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    pub(super) name: String,
    /// CPU time since the first of them started.
    pub(super) cpu: Option<Duration>,
    /// Resident memory, in bytes.
    pub(super) memory: Option<u64>,
}

struct Member {
    name: String,
    pid: Option<u32>,
    /// It has run where this could see it.
    is_known: bool,
    /// CPU time of earlier processes of the same name.
    past: Duration,
    peak_memory: Option<u64>,
}

impl Roster {
    /// A process of that name runs now.
    pub(super) fn runs(&self, name: &str, pid: u32) {
        let mut members = self.lock();
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => (member.pid, member.is_known) = (Some(pid), true),
            None => members.push(Member { pid: Some(pid), is_known: true, ..Member::unknown(name) }),
        }
    }

    /// There is one of that name, somewhere.
    pub(super) fn exists(&self, name: &str) {
        self.lock().push(Member::unknown(name));
    }

    /// The process of that name is about to end.
    pub(super) fn ends(&self, name: &str) {
        for member in self.lock().iter_mut().filter(|member| member.name == name) {
            member.look();
            member.past = member.cpu().unwrap_or(member.past);
            member.pid = None;
        }
    }

    /// What each has used until now.
    pub(super) fn usage(&self) -> Vec<Usage> {
        let usage = |member: &Member| Usage {
            name: member.name.clone(),
            cpu: member.cpu(),
            memory: member.pid.and_then(|pid| member.memory(pid)),
        };
        self.lock().iter().map(usage).collect()
    }

    /// Looks at the memory of each, for [`peak_memory`](Self::peak_memory).
    pub(super) fn look(&self) {
        self.lock().iter_mut().for_each(Member::look);
    }

    /// The most that each was seen to use.
    pub(super) fn peak_memory(&self) -> Vec<(String, Option<u64>)> {
        self.lock().iter().map(|member| (member.name.clone(), member.peak_memory)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn unknown(name: &str) -> Self {
        Self { name: name.to_owned(), pid: None, is_known: false, past: Duration::ZERO, peak_memory: None }
    }

    fn cpu(&self) -> Option<Duration> {
        let Some(pid) = self.pid else { return self.is_known.then_some(self.past) };
        let cpu = if self.name == POSTGRES { procfs::cpu_with_children(pid) } else { procfs::cpu(pid) };
        Some(self.past + cpu?)
    }

    fn memory(&self, pid: u32) -> Option<u64> {
        if self.name == POSTGRES { procfs::memory_with_children(pid) } else { procfs::memory(pid) }
    }

    fn look(&mut self) {
        let Some(pid) = self.pid else { return };
        let memory = if self.name == POSTGRES { self.memory(pid) } else { procfs::peak_memory(pid) };
        self.peak_memory = self.peak_memory.max(memory);
    }
}
