//! `postrider bench`, run as users run it.

use std::ffi::OsString;
use std::process::Stdio;

use serde_json::Value;

use crate::support::Bed;
use crate::support::service::Services;

/// Runs `postrider bench`. Returns its JSON if it wrote any, its exit status, and its standard error. Checks that
/// nothing of its private installation is left.
async fn bench(arguments: &[&str]) -> (Value, Option<i32>, String) {
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_postrider"))
        .arg("bench")
        .args(arguments)
        .arg("--json")
        .env_remove("POSTRIDER_ADMIN_TOKEN")
        .env("POSTRIDER_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program of this crate");
    let directories = format!("postrider-bench-{}-", child.id().expect("it was not waited for"));
    let output = child.wait_with_output().await.expect("its output");
    assert_eq!(remaining(&directories), Vec::<OsString>::new());
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (report, output.status.code(), complaints)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_installation_is_measured_and_removed() {
    let (report, status, complaints) =
        bench(&["a1", "--events", "50", "--warm-up", "0", "--verify-all", "--statements"]).await;
    assert_eq!(status, Some(0), "{complaints}");
    let phase = &report["phases"][0];
    assert_eq!(phase["accepted"], 50);
    assert_eq!(phase["delivered"], 50);
    assert_eq!(phase["missing"], 0);
    assert_eq!(phase["duplicates"], 0);
    assert_eq!(phase["success_rate"], 1.0);
    assert_eq!((&phase["verified"], &phase["badly_signed"]), (&50.into(), &0.into()));
    assert_eq!(phase["lanes"][0]["deliver"]["count"], 50);
    let names: Vec<_> = phase["processes"]
        .as_array()
        .expect("processes")
        .iter()
        .map(|process| {
            assert!(process["cpu_seconds"].is_number() || cfg!(not(target_os = "linux")), "{process}");
            process["name"].as_str().unwrap_or_default()
        })
        .collect();
    assert_eq!(names, ["bench", "api", "relay", "deliverer", "postgresql", "redis"]);
    let statements = phase["statements"].as_array().expect("statements");
    assert!(statements.iter().any(|statement| statement["name"] == "events.accept"), "{statements:?}");
}

/// The remaining directories whose names begin with `directories`.
fn remaining(directories: &str) -> Vec<OsString> {
    let entries = ["/var/tmp", "/tmp"].into_iter().filter_map(|place| std::fs::read_dir(place).ok());
    let names = entries.flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(directories)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_installation_is_measured_and_left_unchanged() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let api = format!("http://{}", services.api);
    let arguments = ["f", "--api", &api, "--events", "40", "--warm-up", "0", "--fail-percent", "50"];
    let (report, status, complaints) = bench(&arguments).await;
    assert_eq!(status, Some(0), "{complaints}");
    let phase = &report["phases"][0];
    assert_eq!(
        (&phase["accepted"], &phase["delivered"], &phase["missing"]),
        (&40.into(), &40.into(), &0.into())
    );
    assert!(phase["retries"].as_u64() > Some(5), "{phase}");
    // The bench was not told which processes are Postrider's.
    assert_eq!(phase["cpu_ms_per_delivery"], Value::Null);
    // The application was deleted, so that nothing is listed as left behind.
    assert_eq!(report["left_behind"].as_array().map(Vec::len), Some(0));
    assert_eq!(bed.count("select count(*) from applications where deleted_at is null").await, 0);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_that_do_not_arrive_are_reported() {
    let bed = Bed::new().await;
    // There is no deliverer.
    let services = Services::api_alone(&bed, &[]).await;
    let api = format!("http://{}", services.api);
    let arguments =
        ["open", "--api", &api, "--rate", "50", "--events", "10", "--warm-up", "0", "--patience", "1"];
    let (report, status, complaints) = bench(&arguments).await;
    assert_eq!(status, Some(1));
    assert!(complaints.contains("10 acknowledged deliveries never arrived"), "{complaints}");
    assert_eq!(report["phases"][0]["accepted"], 10);
    assert_eq!(report["phases"][0]["missing"], 10);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_victim_is_measured_alone_and_beside_each_offender() {
    // The victim's times are only meaningful on a quiet machine: here they may grow.
    let arguments = ["tenants", "--only", "reads,dripping-heads", "--duration", "2", "--warm-up", "0"];
    let (report, status, complaints) = bench(&arguments).await;
    assert!(matches!(status, Some(0 | 1)), "{complaints}");
    let phases = report["phases"].as_array().expect("phases");
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["alone", "reads", "dripping-heads"]);
    for phase in phases {
        assert_eq!((&phase["missing"], &phase["strays"]), (&0.into(), &0.into()), "{phase}");
        assert!(phase["lanes"][0]["deliver"]["count"].as_u64() > Some(10), "{phase}");
    }
    assert_eq!(phases[0]["offender"], serde_json::json!({}));
    assert!(phases[1]["offender"]["page: 200"].as_u64() > Some(0), "{}", phases[1]);
    assert!(phases[2]["offender"]["opened"].as_u64() > Some(0), "{}", phases[2]);
}
