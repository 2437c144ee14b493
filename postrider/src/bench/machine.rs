//! What a figure is worth depends on where it was measured.

use serde::Serialize;

/// The machine of the bench.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cpus: Option<usize>,
    /// Their kind.
    pub cpu_model: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// The system and its release.
    pub system: String,
}

impl Machine {
    /// The one that this runs on.
    pub(super) fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let kilobytes = |text: String| text.trim_end_matches("kB").trim().parse::<u64>().ok();
        let system = rustix::system::uname();
        Self {
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            cpu_model: field("/proc/cpuinfo", "model name"),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(kilobytes).map(|kb| kb * 1024),
            system: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
        }
    }
}
