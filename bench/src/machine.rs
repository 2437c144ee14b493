//! Describes the machine, because figures depend on it.

use serde::Serialize;

/// The machine that the bench runs on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cpus: Option<usize>,
    /// Model of the processors.
    pub cpu_model: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Operating system and release.
    pub system: String,
}

impl Machine {
    /// Returns this machine.
    pub(crate) fn this() -> Self {
        let system = rustix::system::uname();
        let (cpu_model, memory_bytes) = hardware();
        Self {
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            cpu_model,
            memory_bytes,
            system: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
        }
    }
}

/// Returns the model of the processors, and the memory in bytes.
#[cfg(target_os = "linux")]
fn hardware() -> (Option<String>, Option<u64>) {
    use procfs::{CpuInfo, Current as _, Meminfo};

    let cpus = CpuInfo::current().ok();
    let model = cpus.as_ref().and_then(|cpus| cpus.model_name(0)).map(str::to_owned);
    (model, Meminfo::current().ok().map(|memory| memory.mem_total))
}

#[cfg(not(target_os = "linux"))]
fn hardware() -> (Option<String>, Option<u64>) {
    (None, None)
}
