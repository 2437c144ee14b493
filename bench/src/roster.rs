//! The processes of an installation, and what they have used. Those that are killed take nothing with them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::process::ProcessUsage;

/// PostgreSQL, whose sessions are processes of their own.
pub(crate) const POSTGRES: &str = "postgresql";
/// Redis.
pub(crate) const REDIS: &str = "redis";
/// This process: producers and receiver.
pub(crate) const BENCH: &str = "bench";

/// Everybody whose CPU time and memory can be told.
#[derive(Default)]
pub(crate) struct Roster(Mutex<Vec<Member>>);

/// What the processes of one name have used until some moment.
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
    /// It has run where this could see it.
    is_known: bool,
    /// CPU time of earlier processes of the same name.
    past: Duration,
    peak_memory: Option<u64>,
}

impl Roster {
    /// A process of that name runs now.
    pub(crate) fn runs(&self, name: &str, pid: u32) {
        let mut members = self.lock();
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => (member.pid, member.is_known) = (Some(pid), true),
            None => members.push(Member { pid: Some(pid), is_known: true, ..Member::unknown(name) }),
        }
    }

    /// There is one of that name, somewhere.
    pub(crate) fn exists(&self, name: &str) {
        self.lock().push(Member::unknown(name));
    }

    /// The process of that name is about to end.
    pub(crate) fn ends(&self, name: &str) {
        for member in self.lock().iter_mut().filter(|member| member.name == name) {
            member.look();
            member.past = member.cpu(member.usage()).unwrap_or(member.past);
            member.pid = None;
        }
    }

    /// What each has used until now.
    pub(crate) fn usage(&self) -> Vec<Usage> {
        let usage = |member: &Member| {
            let usage = member.usage();
            let memory = usage.map(|usage| usage.memory);
            Usage { name: member.name.clone(), cpu: member.cpu(usage), memory }
        };
        self.lock().iter().map(usage).collect()
    }

    /// Looks at the memory of each, for [`peak_memory`](Self::peak_memory).
    pub(crate) fn look(&self) {
        self.lock().iter_mut().for_each(Member::look);
    }

    /// The most that each was seen to use.
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

    /// What its present process has used.
    fn usage(&self) -> Option<ProcessUsage> {
        let pid = self.pid?;
        if self.name == POSTGRES { ProcessUsage::with_children(pid) } else { ProcessUsage::of(pid) }
    }

    /// CPU time of the present process and of earlier ones.
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
