//! Runs the examples of the documentation.

#[path = "../../../docs/examples/verify.rs"]
#[allow(unreachable_pub, reason = "it is an example")]
mod verify;
#[path = "../../../docs/examples/verify_by_hand.rs"]
#[allow(unreachable_pub, reason = "it is an example")]
mod verify_by_hand;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use chrono::Utc;
use http::{HeaderMap, HeaderName, HeaderValue};
use postrider_secrets::signing::{Secret, SigningKey, signature_header};
use serde_json::{Value, json};

use crate::support::Bed;
use crate::support::receiver::Receiver;
use crate::support::service::Services;

/// The packages that the Python examples are tested with.
const PYTHON_PACKAGES: [&str; 1] = ["standardwebhooks==1.1.0"];
const NODE_PACKAGES: [&str; 3] = ["standardwebhooks@1.1.1", "typescript@5.9", "@types/node@20"];

/// A webhook, and whether it is genuine.
struct Case {
    name: &'static str,
    secret: Secret,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
    is_genuine: bool,
}

fn cases() -> Vec<Case> {
    const BODY: &str =
        r#"{"type":"user.created","timestamp":"2026-01-31T12:00:00.123456Z","data":{"name":"Zoë"}}"#;
    const ID: &str = "0198f1a4-6e7f-7081-9293-a4b5c6d7e8f9";
    let (secret, old, now) = (Secret::generate(), Secret::generate(), Utc::now().timestamp());
    let case = |name, is_genuine, signers: &[&Secret], timestamp: i64| {
        let signers: Vec<_> = signers.iter().map(|signer| SigningKey::Symmetric((*signer).clone())).collect();
        let headers = vec![
            ("webhook-id", ID.to_owned()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", signature_header(&signers, ID, timestamp, BODY.as_bytes())),
        ];
        Case { name, secret: secret.clone(), headers, body: BODY, is_genuine }
    };
    let genuine = || case("genuine", true, &[&secret], now);
    vec![
        genuine(),
        case("signed with the old secret and the new one", true, &[&old, &secret], now),
        case("signed with another secret", false, &[&old], now),
        case("six minutes old", false, &[&secret], now - 360),
        case("six minutes early", false, &[&secret], now + 360),
        Case { name: "another body", is_genuine: false, body: r#"{"type":"user.deleted"}"#, ..genuine() },
        Case {
            name: "no signature",
            is_genuine: false,
            headers: genuine().headers[..2].to_vec(),
            ..genuine()
        },
        Case { name: "no headers", is_genuine: false, headers: Vec::new(), ..genuine() },
    ]
}

#[test]
fn the_rust_examples_accept_only_genuine_webhooks() {
    for Case { name, secret, headers, body, is_genuine } in cases() {
        let (secret, body) = (secret.reveal(), body.as_bytes());
        let header = |(name, value): (&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::try_from(value).expect("a value"))
        };
        let headers: HeaderMap = headers.into_iter().map(header).collect();
        assert_eq!(verify::check(&secret, &headers, body).is_ok(), is_genuine, "{name}");
        assert_eq!(
            verify_by_hand::is_genuine(&secret, &headers, body).unwrap_or(false),
            is_genuine,
            "{name}"
        );
    }
}

#[test]
fn the_python_examples_accept_only_genuine_webhooks() {
    let place = cache_directory("python");
    let python = place.join("bin/python");
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&place)).and_then(|()| {
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))
    });
    if let Err(reason) = made {
        eprintln!("The Python examples were NOT run: {reason}");
        return;
    }
    let mut check = Command::new(&python);
    check.arg(project_file("postrider/tests/it/examples/check.py")).arg(project_file("docs/examples"));
    check.env("PYTHONDONTWRITEBYTECODE", "1");
    assert_passes(check);
}

#[test]
fn the_typescript_examples_accept_only_genuine_webhooks() {
    let place = cache_directory("node");
    std::fs::write(place.join("package.json"), r#"{"type": "module", "private": true}"#).expect("a file");
    let files = [
        "docs/examples/verify.ts",
        "docs/examples/verify_by_hand.ts",
        "postrider/tests/it/examples/check.ts",
    ];
    for file in files {
        let name = Path::new(file).file_name().expect("a name");
        std::fs::copy(project_file(file), place.join(name)).expect("a copy");
    }
    let install = ["install", "--silent", "--no-audit", "--no-fund"];
    if let Err(reason) = run(Command::new("npm").args(install).args(NODE_PACKAGES).current_dir(&place)) {
        eprintln!("The TypeScript examples were NOT run: {reason}");
        return;
    }
    let options = ["--strict", "--module", "nodenext", "--target", "es2022", "--outDir", "built", "check.ts"];
    let compiled = run(Command::new("node_modules/.bin/tsc").args(options).current_dir(&place));
    assert_eq!(compiled, Ok(()));
    let mut check = Command::new("node");
    check.arg("built/check.js").current_dir(&place);
    assert_passes(check);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_detects_a_duplicate_webhook() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    let example =
        std::fs::read_to_string(project_file("docs/examples/deduplicate.sql")).expect("the example");
    let (create, insert) = example.split_once("\n\n").expect("two statements");
    sql.batch_execute(create).await.expect("a table");
    let rows = async |id: &str| {
        sql.query(insert.trim_end().trim_end_matches(';'), &[&id]).await.expect("rows").len()
    };
    assert_eq!([rows("one").await, rows("one").await, rows("two").await], [1, 0, 1]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_curl_commands_send_a_verified_webhook() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let readme = std::fs::read_to_string(project_file("README.md")).expect("the README");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let curls = blocks.into_iter().find(|block| block.contains("/v1/events")).expect("a block of curls");
    let script = curls
        .replace("127.0.0.1:8000", &services.api.to_string())
        .replace("http://127.0.0.1:9001/webhook", &receiver.url("/webhook"));

    let output = tokio::task::spawn_blocking(move || {
        Command::new("bash").args(["-euo", "pipefail", "-c", &script]).stdin(Stdio::null()).output()
    });
    let output = output.await.expect("a task").expect("bash");
    let answers: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {}", output_text(&output)));
    let [endpoint, event] = &answers[..] else { panic!("{}", output_text(&output)) };
    assert_eq!(event["status"], "accepted", "{}", output_text(&output));
    assert_eq!(event["deliveries_queued"], 1);
    let webhook = receiver.wait_for(1).await.remove(0);
    webhook.verify(endpoint["secret"].as_str().expect("a secret"));
    assert_eq!(webhook.id(), event["event_id"]);
    services.stop().await;
    bed.finish().await;
}

/// Runs a check with all cases on its standard input. Its output says what is wrong.
fn assert_passes(mut check: Command) {
    let cases: Vec<_> = cases()
        .into_iter()
        .map(|Case { name, secret, headers, body, is_genuine }| {
            let headers: serde_json::Map<_, _> =
                headers.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            json!({
                "name": name, "secret": secret.reveal(), "headers": headers, "body": body, "is_genuine": is_genuine
            })
        })
        .collect();
    check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = check.spawn().expect("it ran a moment ago");
    let input = json!(cases).to_string();
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output_text(&output));
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", output_text(&output))) }
}

fn output_text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// A directory for installed packages, which is kept for the next run.
fn cache_directory(name: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples").join(name);
    std::fs::create_dir_all(&place).expect("a directory");
    place
}

/// The path of a file of the project.
fn project_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
