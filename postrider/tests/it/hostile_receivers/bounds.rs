//! The memory that a response may cost a deliverer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::setup::{RawReceiver, Setup, read_request};
use crate::support::producer::Producer;
use crate::support::service::{Process, Services};
use crate::support::{Bed, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn endless_informational_responses_are_aborted_and_hold_up_no_other() {
    let setup = Setup::new().await;
    let sent = Arc::new(AtomicU64::new(0));
    let flood = async |unit: &'static str| {
        let sent = sent.clone();
        RawReceiver::start(move |mut stream| {
            let sent = sent.clone();
            async move {
                read_request(&mut stream).await;
                let unit = unit.repeat(0x10000 / unit.len());
                while stream.write_all(unit.as_bytes()).await.is_ok() {
                    sent.fetch_add(unit.len() as u64, Ordering::Relaxed);
                }
            }
        })
        .await
    };
    for (unit, why) in [
        (
            "HTTP/1.1 103 E\r\n\r\n",
            "more than 64 informational answers (1xx) came before the one that counts",
        ),
        (
            "HTTP/1.1 100 Continue\r\nx: y\r\n\r\n",
            "more than 64 informational answers (1xx) came before the one that counts",
        ),
        ("\r\n", "the head of the answer is longer than 400 KiB"),
    ] {
        let receiver = flood(unit).await;
        let outcome = setup.deliver_to(&receiver.url()).await;
        let message = outcome.failed("http", None)["error_message"].clone();
        assert_eq!(message, format!("the exchange failed: {why}"));
    }
    // What fits into the buffers of three connections.
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 48 << 20, "{sent} bytes were taken");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_response_heads_use_little_memory() {
    const RECEIVERS: usize = 256;
    /// The most that an exchange may use besides its request.
    const MOST: u64 = 96 * 1024;
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    services.relay(&bed, &[]);
    let deliverer = Process::start(&bed, "deliverer", &[]);
    deliverer.ready().await;
    let producer = Producer::new(services.api).await;
    let filled = Arc::new(AtomicU64::new(0));
    let receiver = {
        let filled = filled.clone();
        RawReceiver::start(move |mut stream| {
            let filled = filled.clone();
            async move {
                read_request(&mut stream).await;
                let header = format!("x-long: {}\r\n", "v".repeat(3_900));
                let head = format!("HTTP/1.1 200 OK\r\n{}", header.repeat(97));
                if stream.write_all(head.as_bytes()).await.is_ok() {
                    filled.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_secs(600)).await;
            }
        })
        .await
    };
    let endpoints = (0..RECEIVERS).map(|_| {
        let endpoint = json!({"url": receiver.url(), "event_types": ["filling"], "timeout_seconds": 60});
        producer.endpoint(endpoint)
    });
    join_all(endpoints).await;
    let before = resident_bytes(deliverer.id());
    producer.publish("filling", json!({})).await;
    eventually("all heads to be read", async || {
        (filled.load(Ordering::Relaxed) == RECEIVERS as u64).then_some(())
    })
    .await;
    let grown = resident_bytes(deliverer.id()).saturating_sub(before);
    assert!(grown < RECEIVERS as u64 * MOST, "{grown} bytes more");
    drop(deliverer);
    services.stop().await;
    bed.finish().await;
}

/// The resident memory of a process.
fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024
}
