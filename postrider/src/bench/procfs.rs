//! What Linux tells of processes: CPU time and memory. Elsewhere it is unknown.

use std::time::Duration;

/// Ticks of CPU that a process has used, and those of its children that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    own: u64,
    ended_children: u64,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Memory {
    /// The most that was resident at any time.
    peak: u64,
    /// What is resident now.
    resident: u64,
    /// What is its own.
    anonymous: u64,
    /// Shared memory that it has touched.
    shared: u64,
}

/// CPU time of a process. `None` where it does not run, or cannot be known.
pub(super) fn cpu(pid: u32) -> Option<Duration> {
    Some(duration(parse_stat(&read(pid, "stat")?)?.own))
}

/// CPU time of a process, of its children, and of those that have ended and been waited for.
pub(super) fn cpu_with_children(pid: u32) -> Option<Duration> {
    let parent = parse_stat(&read(pid, "stat")?)?;
    let children = children(pid)?;
    let ticks = |pid: &u32| parse_stat(&read(*pid, "stat")?).map(|ticks| ticks.own + ticks.ended_children);
    let living: u64 = children.iter().filter_map(ticks).sum();
    Some(duration(parent.own + parent.ended_children + living))
}

/// The most memory that a process has had resident.
pub(super) fn peak_memory(pid: u32) -> Option<u64> {
    Some(parse_status(&read(pid, "status")?).peak)
}

/// Memory of a process at this moment.
pub(super) fn memory(pid: u32) -> Option<u64> {
    Some(parse_status(&read(pid, "status")?).resident)
}

/// Memory of a process and its children at this moment; what they share is counted once.
pub(super) fn memory_with_children(pid: u32) -> Option<u64> {
    let mut pids = children(pid)?;
    pids.push(pid);
    let each = || pids.iter().filter_map(|pid| Some(parse_status(&read(*pid, "status")?)));
    let anonymous: u64 = each().map(|memory| memory.anonymous).sum();
    Some(anonymous + each().map(|memory| memory.shared).max().unwrap_or_default())
}

fn children(pid: u32) -> Option<Vec<u32>> {
    let text = read(pid, &format!("task/{pid}/children"))?;
    Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

fn read(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

fn duration(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Of `pid (name) state …` (proc(5)), where the name may contain anything.
fn parse_stat(text: &str) -> Option<Ticks> {
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Ticks { own: number(11)? + number(12)?, ended_children: number(13)? + number(14)? })
}

fn parse_status(text: &str) -> Memory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kilobytes.unwrap_or_default() * 1024
    };
    Memory {
        peak: bytes("VmHWM"),
        resident: bytes("VmRSS"),
        anonymous: bytes("RssAnon"),
        shared: bytes("RssShmem"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let stat = "42 (a ) b (c) S 1 42 42 0 -1 4194560 100 200 0 0 30 12 5 3 20 0 4 0 100 200";
        assert_eq!(parse_stat(stat), Some(Ticks { own: 42, ended_children: 8 }));
        assert_eq!(parse_stat("42 (cut off) S 1"), None);
    }

    #[test]
    fn memory_is_told_in_kilobytes() {
        let status =
            "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\nRssAnon:\t     512 kB\nRssShmem:\t 4 kB\n";
        let expected = Memory { peak: 2 << 20, resident: 1 << 20, anonymous: 512 << 10, shared: 4 << 10 };
        assert_eq!(parse_status(status), expected);
        assert_eq!(parse_status("Name:\tgone\n"), Memory::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_looked_at() {
        let own = std::process::id();
        assert!(cpu(own).is_some());
        assert!(cpu_with_children(own) >= cpu(own));
        assert!(peak_memory(own).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(cpu(u32::MAX), None);
    }
}
