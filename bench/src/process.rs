//! CPU time and memory of processes. Available on Linux only.

use std::time::Duration;

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessUsage {
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes.
    pub(crate) memory: u64,
    /// The highest resident memory so far, in bytes.
    pub(crate) peak_memory: u64,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::time::Duration;

    use procfs::process::{Process, Stat, Status};

    use super::ProcessUsage;

    impl ProcessUsage {
        /// Returns the usage of one process, or `None` if it is not running.
        pub(crate) fn of(pid: u32) -> Option<Self> {
            let process = open(pid)?;
            let status = process.status().ok()?;
            Some(Self {
                cpu: duration(own_ticks(&process.stat().ok()?)),
                memory: bytes(status.vmrss),
                peak_memory: bytes(status.vmhwm),
            })
        }

        /// Returns the usage of a process and its children. The CPU time includes children that have ended. Shared
        /// memory is counted once.
        pub(crate) fn with_children(pid: u32) -> Option<Self> {
            let parent = open(pid)?;
            let children = parent.task_main_thread().ok()?.children().ok()?;
            let mut processes: Vec<_> = children.into_iter().filter_map(open).collect();
            processes.push(parent);
            let stats = processes.iter().filter_map(|process| process.stat().ok());
            let ticks = stats.map(|stat| own_ticks(&stat) + ended_ticks(&stat)).sum();
            let statuses: Vec<Status> =
                processes.iter().filter_map(|process| process.status().ok()).collect();
            let anonymous: u64 = statuses.iter().map(|status| bytes(status.rssanon)).sum();
            let shared = statuses.iter().map(|status| bytes(status.rssshmem)).max();
            let memory = anonymous + shared.unwrap_or_default();
            Some(Self { cpu: duration(ticks), memory, peak_memory: memory })
        }
    }

    fn open(pid: u32) -> Option<Process> {
        Process::new(i32::try_from(pid).ok()?).ok()
    }

    fn own_ticks(stat: &Stat) -> u64 {
        stat.utime + stat.stime
    }

    fn ended_ticks(stat: &Stat) -> u64 {
        u64::try_from(stat.cutime + stat.cstime).unwrap_or_default()
    }

    fn duration(ticks: u64) -> Duration {
        Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64)
    }

    fn bytes(kilobytes: Option<u64>) -> u64 {
        kilobytes.unwrap_or_default() * 1024
    }
}

#[cfg(not(target_os = "linux"))]
impl ProcessUsage {
    pub(crate) fn of(_pid: u32) -> Option<Self> {
        None
    }

    pub(crate) fn with_children(_pid: u32) -> Option<Self> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::ProcessUsage;

    #[test]
    fn this_process_can_be_looked_at() {
        let own = std::process::id();
        let alone = ProcessUsage::of(own).expect("it runs");
        let with_children = ProcessUsage::with_children(own).expect("it runs");
        assert!(with_children.cpu >= alone.cpu);
        assert!(alone.peak_memory >= alone.memory && alone.memory > 1 << 20);
        assert!(ProcessUsage::of(u32::MAX).is_none());
    }
}
