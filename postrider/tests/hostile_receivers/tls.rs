//! Certificates that prove nothing.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::name_server::{NameServer, Reply};
use crate::scene::{RawReceiver, Scene, read_request};

/// An authority, and its certificate for those who are to trust it.
fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new([]).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (Issuer::new(params, key), pem)
}

/// A receiver with a certificate for `good.example.com` by `issuer`.
async fn receiver(issuer: &Issuer<'static, KeyPair>, is_expired: bool) -> RawReceiver {
    let mut params = CertificateParams::new(["good.example.com".to_owned()]).expect("parameters");
    if is_expired {
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    RawReceiver::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            read_request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_foreign_expired_or_of_another_name_is_a_failure_of_tls() {
    let name_server =
        NameServer::start(|_, _| Reply::Addresses(vec!["127.0.0.1".parse().expect("an address")])).await;
    let (trusted, trusted_pem) = authority("trusted");
    let (foreign, _) = authority("foreign");
    let mut bundle = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut bundle, trusted_pem.as_bytes()).expect("written");
    let scene = Scene::with(&[
        ("POSTRIDER_DNS_SERVERS", &name_server.address.to_string()),
        ("POSTRIDER_EXTRA_CA_FILE", bundle.path().to_str().expect("a path")),
    ])
    .await;

    let good = receiver(&trusted, false).await;
    let expired = receiver(&trusted, true).await;
    let foreign = receiver(&foreign, false).await;
    let url = |name: &str, receiver: &RawReceiver| format!("https://{name}:{}/", receiver.address.port());
    scene.deliver_to(&url("good.example.com", &good)).await.succeeded();

    for (url, reason) in [
        (url("other.example.com", &good), "not valid for name"),
        (url("good.example.com", &foreign), "UnknownIssuer"),
        (url("good.example.com", &expired), "expired"),
    ] {
        let outcome = scene.deliver_to(&url).await;
        let message = said(outcome.failed("tls", None));
        assert!(message.contains(reason), "{message}");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_or_does_not_end_is_told_from_one_another() {
    let scene = Scene::new().await;
    let plain = RawReceiver::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 This is no TLS\r\n\r\n").await;
        tokio::time::sleep(Duration::from_secs(600)).await;
    })
    .await;
    let outcome = scene.deliver_to(&plain.url().replace("http:", "https:")).await;
    outcome.failed("tls", None);

    let silent = RawReceiver::start(|stream| async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(stream);
    })
    .await;
    let outcome = scene.deliver_to(&silent.url().replace("http:", "https:")).await;
    outcome.failed("timeout", None);
    scene.finish().await;
}

fn said(attempt: &Value) -> &str {
    attempt["error_message"].as_str().expect("a message")
}
