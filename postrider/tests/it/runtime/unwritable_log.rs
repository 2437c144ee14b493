//! A log that cannot be written does no harm.

use std::fs::File;
use std::io::{PipeReader, Write as _};
use std::process::Stdio;

use serde_json::json;

use crate::support::Bed;
use crate::support::producer::Producer;
use crate::support::receiver::Receiver;
use crate::support::service::{Process, free_port};

/// What standard error leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    /// A disk without free space.
    FullDisk,
    /// A pipe whose reader is gone.
    ClosedPipe,
    /// A full pipe that is never read.
    FullPipe,
}

impl Log {
    fn open(self, readers: &mut Vec<PipeReader>) -> Stdio {
        if self == Self::FullDisk {
            return File::options().write(true).open("/dev/full").expect("a full disk").into();
        }
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        if self == Self::FullPipe {
            rustix::io::ioctl_fionbio(&writer, true).expect("a pipe that does not block");
            while writer.write(&[b'.'; 4096]).is_ok() {}
            while writer.write(b".").is_ok() {}
            rustix::io::ioctl_fionbio(&writer, false).expect("a pipe that blocks");
            readers.push(reader);
        }
        writer.into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_deliver_and_stop_cleanly_when_their_log_cannot_be_written() {
    for log in [Log::FullDisk, Log::ClosedPipe, Log::FullPipe] {
        let bed = Bed::new().await;
        let mut readers = Vec::new();
        let mut start = |role| {
            let log = log.open(&mut readers);
            Process::start_logging(&bed, role, free_port(), &[("POSTRIDER_LOG", "debug")], log)
        };
        let processes = [start("api"), start("relay"), start("deliverer")];
        deliver(&bed, processes, log).await;
        bed.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn up_delivers_and_stops_cleanly_when_its_log_cannot_be_written() {
    for log in [Log::FullDisk, Log::ClosedPipe, Log::FullPipe] {
        let bed = Bed::new().await;
        let mut readers = Vec::new();
        let environment = [("POSTRIDER_LOG", "debug")];
        let stderr = log.open(&mut readers);
        let processes = [Process::start_logging(&bed, "up", free_port(), &environment, stderr)];
        deliver(&bed, processes, log).await;
        bed.finish().await;
    }
}

/// Delivers webhooks, one of which makes a handler log a panic, and stops.
async fn deliver<const N: usize>(bed: &Bed, processes: [Process; N], log: Log) {
    for process in &processes {
        process.ready().await;
    }
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(processes[0].listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    for n in 0..20 {
        producer.publish("user.created", json!({ "n": n })).await;
    }
    receiver.wait_for(20).await;
    bed.all_succeeded(20).await;
    let mut has_lost_lines = false;
    for process in processes {
        if log != Log::FullPipe {
            let url = format!("http://{}/metrics", process.listen);
            let metrics = reqwest::get(url).await.expect("a response").text().await.expect("text");
            let lost = metrics.lines().find_map(|line| line.strip_prefix("postrider_log_lines_lost_total "));
            has_lost_lines |= lost.is_some_and(|lost| lost != "0");
        }
        assert!(process.terminate().await, "{log:?}: it exits 0");
    }
    assert!(has_lost_lines || log == Log::FullPipe, "{log:?}: lost lines are counted");
}
