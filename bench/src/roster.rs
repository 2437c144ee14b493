//! The processes of an installation, and what they have used. The usage of killed processes still counts.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::process::ProcessUsage;

/// PostgreSQL, including its session processes.
pub(crate) const POSTGRES: &str = "postgresql";
/// Redis.
pub(crate) const REDIS: &str = "redis";
/// This process: producers and receiver.
pub(crate) const BENCH: &str = "bench";

/// All processes whose usage is reported.
#[derive(Default)]
pub(crate) struct Roster(Mutex<Vec<Member>>);

/// What the processes with one name have used up to a moment.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    pub(crate) name: String,
    /// CPU time since the first of them started.
    pub(crate) cpu: Option<Duration>,
    /// Resident memory, in bytes.
    pub(crate) memory: Option<u64>,
}

struct Member {
    name: String,
    pid: Option<u32>,
    /// Whether a process with this name has run on this machine.
    is_known: bool,
    /// CPU time of earlier processes with the same name.
    past: Duration,
    peak_memory: Option<u64>,
}

impl Roster {
    /// Notes that a process with this name is running.
    pub(crate) fn runs(&self, name: &str, pid: u32) {
        let mut members = self.lock();
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => (member.pid, member.is_known) = (Some(pid), true),
            None => members.push(Member { pid: Some(pid), is_known: true, ..Member::unknown(name) }),
        }
    }

    /// Adds a process whose process id is not known.
    pub(crate) fn exists(&self, name: &str) {
        self.lock().push(Member::unknown(name));
    }

    /// Notes that the process with this name is about to end.
    pub(crate) fn ends(&self, name: &str) {
        for member in self.lock().iter_mut().filter(|member| member.name == name) {
            member.look();
            member.past = member.cpu(member.usage()).unwrap_or(member.past);
            member.pid = None;
        }
    }

    /// Returns what each has used so far.
    pub(crate) fn usage(&self) -> Vec<Usage> {
        let usage = |member: &Member| {
            let usage = member.usage();
            let memory = usage.map(|usage| usage.memory);
            Usage { name: member.name.clone(), cpu: member.cpu(usage), memory }
        };
        self.lock().iter().map(usage).collect()
    }

    /// Samples the memory of each, for [`peak_memory`](Self::peak_memory).
    pub(crate) fn look(&self) {
        self.lock().iter_mut().for_each(Member::look);
    }

    /// Returns the highest memory usage seen for each.
    pub(crate) fn peak_memory(&self) -> Vec<(String, Option<u64>)> {
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

    /// Returns the usage of the current process.
    fn usage(&self) -> Option<ProcessUsage> {
        let pid = self.pid?;
        if self.name == POSTGRES { ProcessUsage::with_children(pid) } else { ProcessUsage::of(pid) }
    }

    /// Returns the CPU time of the current process and of earlier ones.
    fn cpu(&self, usage: Option<ProcessUsage>) -> Option<Duration> {
        match self.pid {
            Some(_) => Some(self.past + usage?.cpu),
            None => self.is_known.then_some(self.past),
        }
    }

    fn look(&mut self) {
        self.peak_memory = self.peak_memory.max(self.usage().map(|usage| usage.peak_memory));
    }
}
