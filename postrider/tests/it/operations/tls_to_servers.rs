//! TLS to PostgreSQL and Redis, with certificates of an authority that only `POSTRIDER_EXTRA_CA_FILE` knows.

use std::sync::Arc;

use postrider_queue::{Queue, QueueConfig};
use postrider_runtime::config::Source;
use postrider_store::{DatabaseConfig, Store};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::Bed;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The message with which a client asks PostgreSQL for TLS, and the response.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const YES: &[u8] = b"S";

/// A certificate authority, and a file with its certificate.
fn authority() -> (Issuer<'static, KeyPair>, tempfile::NamedTempFile) {
    let mut params = CertificateParams::new([]).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, "an authority of one's own");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    std::io::Write::write_all(&mut file, pem.as_bytes()).expect("written");
    (Issuer::new(params, key), file)
}

/// Speaks TLS for a server that does not, with a certificate for `name`. Returns its port.
async fn speak_tls(issuer: &Issuer<'static, KeyPair>, name: &str, server: Host, port: u16) -> u16 {
    let params = CertificateParams::new([name.to_owned()]).expect("parameters");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("a connection");
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut first = [0; 1];
                if client.peek(&mut first).await.is_ok() && first[0] == SSL_REQUEST[0] {
                    let mut request = [0; SSL_REQUEST.len()];
                    client.read_exact(&mut request).await.expect("a request");
                    assert_eq!(request, SSL_REQUEST);
                    client.write_all(YES).await.expect("answered");
                }
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server: Box<dyn Stream> = match server {
                    Host::Unix(path) => Box::new(UnixStream::connect(path).await.expect("the server")),
                    Host::Tcp(host) => Box::new(TcpStream::connect((host, port)).await.expect("the server")),
                };
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address.port()
}

fn source(bed: &Bed, settings: &[(&'static str, String)]) -> Source {
    let mut source = bed.source.clone();
    for (name, value) in settings {
        source.set(name, value.clone());
    }
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_verified_in_each_mode_and_the_extra_authority_is_trusted() {
    let bed = Bed::new().await;
    let real: tokio_postgres::Config = bed.source.get("DATABASE_URL").expect("set").parse().expect("a URL");
    let port = real.get_ports().first().copied().unwrap_or(5432);
    let server = match &real.get_hosts()[0] {
        Host::Unix(directory) => Host::Unix(directory.join(format!(".s.PGSQL.{port}"))),
        Host::Tcp(host) => Host::Tcp(host.clone()),
    };
    let (issuer, file) = authority();
    let good = speak_tls(&issuer, "localhost", server.clone(), port).await;
    let other = speak_tls(&issuer, "other.example.com", server, port).await;
    let password = real.get_password().map(|password| String::from_utf8_lossy(password).into_owned());
    let ping = async |port: u16, mode: &str, trusted: bool| {
        let mut url = format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user={} dbname={} sslmode={mode}",
            real.get_user().expect("a user"),
            bed.name
        );
        if let Some(password) = &password {
            url = format!("{url} password='{password}'");
        }
        let mut settings = vec![("DATABASE_URL", url)];
        if trusted {
            settings.push(("POSTRIDER_EXTRA_CA_FILE", file.path().to_string_lossy().into_owned()));
        }
        let config = source(&bed, &settings).read(DatabaseConfig::read).expect("the configuration");
        Store::new(&config).durable().await.map(drop)
    };
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        ping(good, mode, true).await.expect(mode);
        assert!(ping(good, mode, false).await.is_err(), "{mode}: no known authority has signed it");
        assert!(ping(other, mode, true).await.is_err(), "{mode}: it is for another name");
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_verified_and_the_extra_authority_is_trusted() {
    let bed = Bed::new().await;
    let url = bed.source.get("REDIS_URL").expect("set");
    let (server, port) = match url.strip_prefix("redis+unix://") {
        Some(path) => (Host::Unix(path.into()), 0),
        None => {
            let url: url::Url = url.parse().expect("a URL");
            (Host::Tcp(url.host_str().expect("a host").to_owned()), url.port().unwrap_or(6379))
        }
    };
    let (issuer, file) = authority();
    let good = speak_tls(&issuer, "localhost", server.clone(), port).await;
    let other = speak_tls(&issuer, "other.example.com", server, port).await;
    let ask = async |port: u16, trusted: bool| {
        let mut settings = vec![("REDIS_URL", format!("rediss://localhost:{port}"))];
        if trusted {
            settings.push(("POSTRIDER_EXTRA_CA_FILE", file.path().to_string_lossy().into_owned()));
        }
        let config = source(&bed, &settings).read(QueueConfig::read).expect("the configuration");
        Queue::new(&config).expect("certificates").memory().await
    };
    let (_, run_id) = ask(good, true).await.expect("a response");
    assert_eq!(run_id.len(), 40);
    assert!(ask(good, false).await.is_err(), "no known authority has signed it");
    assert!(ask(other, true).await.is_err(), "it is for another name");
    bed.finish().await;
}
