//! A fault matrix: two of each service as processes behind proxies, producers that retry until their events are
//! acknowledged, a receiver that verifies, and faults drawn from a seed. At the end, what was acknowledged, what is
//! stored and what was received must agree.
//!
//! `script/torture --seed N --minutes M` runs it. A seed repeats the faults and their order, but not every race.

#![allow(clippy::print_stdout, reason = "it prints a report")]

mod check;
mod emitter;
mod faults;
mod installation;
mod mutations;
mod proxy;
mod traffic;

use std::time::{Duration, Instant};

use faults::Faults;
use installation::Installation;
use mutations::Mutations;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::signal::unix::{SignalKind, signal};
use traffic::Traffic;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it runs for minutes: script/torture"]
async fn no_acknowledged_event_is_lost_under_random_faults() {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).expect("SIGINT"), signal(SignalKind::terminate()).expect("SIGTERM"));
    // The processes that it started end with it, however it ends.
    tokio::select! {
        () = Box::pin(torture()) => {}
        _ = interrupt.recv() => panic!("interrupted"),
        _ = terminate.recv() => panic!("stopped by SIGTERM"),
    }
}

async fn torture() {
    let seed = number("POSTRIDER_TORTURE_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let seconds = number("POSTRIDER_TORTURE_SECONDS").unwrap_or(60);
    println!("torture: seed {seed}, {seconds} s");
    let mut random = StdRng::seed_from_u64(seed);
    let mut installation = Installation::start().await;
    println!("torture: logs are in {}", installation.logs.display());
    let traffic = Traffic::start(&installation).await;
    let mutations = Mutations::start(&traffic, StdRng::seed_from_u64(!seed));

    let mut faults = Faults::new(&installation);
    let ends = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < ends {
        faults.inject(&mut installation, &mut random).await;
    }
    installation.heal().await;
    let mutated = mutations.stop().await;
    let acknowledged = traffic.stop_publishing(&installation.bed).await;
    let report = check::check(&mut installation, &traffic, &acknowledged, faults.postgres_crashes()).await;

    println!("\n{}\n{mutated}\n{report}\nseed {seed}", faults.table());
    assert!(report.problems.is_empty(), "seed {seed}; the logs are kept in {}", installation.logs.display());
    installation.stop().await;
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}
