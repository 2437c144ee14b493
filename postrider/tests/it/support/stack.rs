//! One of each service as processes, and servers that can be stopped.

use postrider_embedded::{Embedded, Options};

use super::Bed;
use super::service::Process;

/// One of each service, as processes.
pub struct Stack {
    pub api: Process,
    pub relay: Process,
    pub deliverer: Process,
}

impl Stack {
    pub async fn start(bed: &Bed) -> Self {
        let stack = Self {
            api: Process::start(bed, "api", &[]),
            relay: Process::start(bed, "relay", &[]),
            deliverer: Process::start(bed, "deliverer", &[]),
        };
        for process in [&stack.api, &stack.relay, &stack.deliverer] {
            process.ready().await;
        }
        stack
    }
}

/// Starts servers for a test that stops them.
pub async fn own_servers() -> (tempfile::TempDir, Embedded) {
    let directory = tempfile::Builder::new().prefix("postrider-chaos").tempdir().expect("a directory");
    let options = Options { fsync: false, end_on_drop: true, track_statements: false };
    let servers = Embedded::start(&directory.path().join("data"), options).await.expect("servers");
    (directory, servers)
}
