//! Certificates that do not prove the receiver's identity.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::name_server::{NameServer, Reply};
use super::setup::{RawReceiver, Setup, read_request};

/// A file of certificates to trust.
pub(crate) fn bundle(pem: &str) -> tempfile::NamedTempFile {
    let mut bundle = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut bundle, pem.as_bytes()).expect("written");
    bundle
}

/// A certificate authority, and its certificate in PEM.
pub(crate) fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new([]).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (Issuer::new(params, key), pem)
}

/// Accepts TLS with a certificate from `issuer`.
fn acceptor(params: &CertificateParams, issuer: &Issuer<'static, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    with_certificate(certificate.der().clone(), &key)
}

fn with_certificate(certificate: CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a configuration");
    TlsAcceptor::from(Arc::new(config))
}

/// Accepts TLS with a certificate for `name` from `issuer`.
pub(crate) fn server(issuer: &Issuer<'static, KeyPair>, name: &str) -> TlsAcceptor {
    acceptor(&CertificateParams::new([name.to_owned()]).expect("parameters"), issuer)
}

/// A receiver that accepts every webhook.
pub(crate) async fn accepting(acceptor: TlsAcceptor) -> RawReceiver {
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

/// A receiver with a certificate for `good.example.com` from `issuer`.
async fn receiver(issuer: &Issuer<'static, KeyPair>, is_expired: bool) -> RawReceiver {
    let mut params = CertificateParams::new(["good.example.com".to_owned()]).expect("parameters");
    if is_expired {
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    accepting(acceptor(&params, issuer)).await
}

/// A name server that resolves every name to this machine.
async fn resolving_everything() -> NameServer {
    NameServer::start(|_, _| Reply::Addresses(vec!["127.0.0.1".parse().expect("an address")])).await
}

/// An installation that uses `name_server` and trusts `pem`.
async fn setup_trusting(name_server: &NameServer, pem: &str) -> Setup {
    let bundle = bundle(pem);
    Setup::with(&[
        ("POSTRIDER_DNS_SERVERS", &name_server.address.to_string()),
        ("POSTRIDER_EXTRA_CA_FILE", bundle.path().to_str().expect("a path")),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_expired_or_misnamed_certificate_is_a_tls_failure() {
    let name_server = resolving_everything().await;
    let (trusted, trusted_pem) = authority("trusted");
    let (foreign, _) = authority("foreign");
    let setup = setup_trusting(&name_server, &trusted_pem).await;

    let good = receiver(&trusted, false).await;
    let expired = receiver(&trusted, true).await;
    let foreign = receiver(&foreign, false).await;
    let url = |name: &str, receiver: &RawReceiver| format!("https://{name}:{}/", receiver.address.port());
    setup.deliver_to(&url("good.example.com", &good)).await.succeeded();

    for (url, reason) in [
        (url("other.example.com", &good), "not valid for name"),
        (url("good.example.com", &foreign), "UnknownIssuer"),
        (url("good.example.com", &expired), "expired"),
    ] {
        let outcome = setup.deliver_to(&url).await;
        let message = said(outcome.failed("tls", None));
        assert!(message.contains(reason), "{message}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handshake_and_a_hanging_one_are_told_apart() {
    let setup = Setup::new().await;
    let plain = RawReceiver::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 This is no TLS\r\n\r\n").await;
        tokio::time::sleep(Duration::from_secs(600)).await;
    })
    .await;
    let outcome = setup.deliver_to(&plain.url().replace("http:", "https:")).await;
    outcome.failed("tls", None);

    let silent = RawReceiver::start(|stream| async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(stream);
    })
    .await;
    let outcome = setup.deliver_to(&silent.url().replace("http:", "https:")).await;
    outcome.failed("timeout", None);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified_for_unusual_names_and_addresses_too() {
    let name_server = resolving_everything().await;
    let (issuer, pem) = authority("trusted");
    let setup = setup_trusting(&name_server, &pem).await;
    for (certified, host) in [
        ("127.0.0.1", "127.0.0.1"),
        ("my_service.example.com", "my_service.example.com"),
        ("absolute.example.com", "absolute.example.com."),
        ("*.example.com", "xn--bcher-kva.example.com"),
    ] {
        let receiver = accepting(server(&issuer, certified)).await;
        let outcome = setup.deliver_to(&format!("https://{host}:{}/", receiver.address.port())).await;
        assert_eq!(outcome.delivery["status"], "succeeded", "{host}: {:?}", outcome.attempts);
    }
    let receiver = accepting(server(&issuer, "127.0.0.2")).await;
    let outcome = setup.deliver_to(&format!("https://127.0.0.1:{}/", receiver.address.port())).await;
    let message = said(outcome.failed("tls", None));
    assert!(message.contains("not valid for name"), "{message}");
    // No certificate can be valid for this name.
    let url = format!("https://service-.example.com:{}/", receiver.address.port());
    let outcome = setup.deliver_to(&url).await;
    let message = said(outcome.failed("tls", None));
    assert!(message.contains("no certificate can be valid for this host name"), "{message}");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_self_signed_certificate_is_trusted_but_not_as_an_authority() {
    let name_server = resolving_everything().await;
    let self_signed = |is_ca: IsCa| {
        let mut params = CertificateParams::new(["self.example.com".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "self-signed");
        params.is_ca = is_ca;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        (with_certificate(certificate.der().clone(), &key), certificate.pem())
    };
    let (plain, plain_pem) = self_signed(IsCa::ExplicitNoCa);
    let (authority, authority_pem) = self_signed(IsCa::Ca(BasicConstraints::Unconstrained));
    let (unlisted, _) = self_signed(IsCa::ExplicitNoCa);
    let setup = setup_trusting(&name_server, &format!("{plain_pem}{authority_pem}")).await;
    let (plain, authority, unlisted) =
        (accepting(plain).await, accepting(authority).await, accepting(unlisted).await);
    let url = |receiver: &RawReceiver| format!("https://self.example.com:{}/", receiver.address.port());
    setup.deliver_to(&url(&plain)).await.succeeded();
    let outcome = setup.deliver_to(&url(&authority)).await;
    let message = said(outcome.failed("tls", None));
    assert!(message.contains("basicConstraints=CA:FALSE"), "{message}");
    setup.deliver_to(&url(&unlisted)).await.failed("tls", None);
    setup.finish().await;
}

/// The error of a receiver that supports only cipher suites with CBC, or only the curve P-521.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_common_cipher_suite_is_reported_as_such() {
    let setup = Setup::new().await;
    let handshake_failure = RawReceiver::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"\x15\x03\x03\x00\x02\x02\x28").await;
    })
    .await;
    let outcome = setup.deliver_to(&handshake_failure.url().replace("http:", "https:")).await;
    let message = said(outcome.failed("tls", None));
    assert!(message.contains("HandshakeFailure"), "{message}");
    assert!(message.contains("no TLS version, cipher suite or curve in common"), "{message}");
    setup.finish().await;
}

fn said(attempt: &Value) -> &str {
    attempt["error_message"].as_str().expect("a message")
}
