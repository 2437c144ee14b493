//! Offenders that occupy connections, and send little on them or read nothing.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::tenant::Tenant;

/// The maximum size of a batch request.
const BODY_BYTES: usize = 4 << 20;
/// Pause before a closed connection is opened again.
const PAUSE: Duration = Duration::from_millis(200);
/// Interval between two bytes of a head.
const DRIP: Duration = Duration::from_secs(20);
/// Descriptors that the bench needs for other purposes.
const OTHER_DESCRIPTORS: u64 = 400;

/// Sends all but the last byte of a large body, with an unknown key.
pub(crate) async fn unauthenticated_bodies(tenant: &Tenant) -> anyhow::Result<()> {
    let key = unknown_key(&tenant.api_key);
    let head = format!(
        "POST /v1/events/batch HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {BODY_BYTES}\r\n\r\n",
        tenant.address
    );
    let body = vec![b' '; BODY_BYTES - 1];
    tenant.begins();
    tenant
        .again_and_again(300, async |_| {
            let Ok(mut stream) = TcpStream::connect(tenant.address).await else {
                tenant.note("no connection");
                return sleep(PAUSE).await;
            };
            let (mut reader, mut writer) = stream.split();
            let mut status = [0; 12];
            let sending = async {
                writer.write_all(head.as_bytes()).await?;
                writer.write_all(&body).await?;
                tenant.note("bodies sent");
                std::future::pending::<std::io::Result<()>>().await
            };
            let answered = tokio::select! {
                read = reader.read_exact(&mut status) => read.is_ok(),
                _ = sending => false,
            };
            // The response begins `HTTP/1.1 401`.
            let status = String::from_utf8_lossy(&status[9..]).into_owned();
            tenant.note(&if answered { format!("request: {status}") } else { "request: cut off".to_owned() });
            sleep(PAUSE).await;
        })
        .await;
    Ok(())
}

/// Sends a byte now and then, so that no connection is ever idle for long.
pub(crate) async fn dripping_heads(tenant: &Tenant) -> anyhow::Result<()> {
    let connections = affordable(3_000);
    tenant.begins();
    tenant.note(&format!("at once: {connections}"));
    tenant
        .again_and_again(connections, async |_| {
            if drip(tenant).await.is_err() {
                tenant.note("no connection");
            }
            sleep(PAUSE).await;
        })
        .await;
    Ok(())
}

async fn drip(tenant: &Tenant) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(tenant.address).await?;
    tenant.note("opened");
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nx-drip: ").await?;
    let mut byte = [0];
    loop {
        tokio::select! {
            _ = stream.read(&mut byte) => break,
            () = sleep(DRIP) => if stream.write_all(b".").await.is_err() { break },
        }
    }
    tenant.note("closed by the API");
    Ok(())
}

/// Keeps connections open after one request.
pub(crate) async fn idle_connections(tenant: &Tenant) -> anyhow::Result<()> {
    let connections = affordable(2_000);
    tenant.begins();
    tenant.note(&format!("at once: {connections}"));
    tenant
        .again_and_again(connections, async |_| {
            if idle(tenant).await.is_err() {
                tenant.note("no connection");
            }
            sleep(PAUSE).await;
        })
        .await;
    Ok(())
}

async fn idle(tenant: &Tenant) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(tenant.address).await?;
    let request = format!("GET /health/live HTTP/1.1\r\nhost: {}\r\n\r\n", tenant.address);
    stream.write_all(request.as_bytes()).await?;
    tenant.note("opened");
    let mut buffer = [0; 1_024];
    // Read until the other end closes.
    while stream.read(&mut buffer).await? > 0 {}
    tenant.note("closed by the API");
    Ok(())
}

/// Requests a page of 250 events of 8 kB on each connection.
pub(crate) async fn unread_responses(tenant: &Tenant) -> anyhow::Result<()> {
    let data = json!({"text": "x".repeat(8_000)});
    for _ in 0..3 {
        tenant.publish_batch("read", &data, 100).await;
    }
    let head = format!("GET /v1/events?limit=250 HTTP/1.1\r\n{}\r\n", common_headers(tenant));
    tenant.begins();
    send_again_and_again(tenant, 160, head.as_bytes(), false).await;
    Ok(())
}

/// Announces the length of a body that never arrives.
pub(crate) async fn unsent_bodies(tenant: &Tenant) -> anyhow::Result<()> {
    let head = format!(
        "POST /v1/events HTTP/1.1\r\n{}idempotency-key: unsent\r\ncontent-type: application/json\r\n\
         content-length: 50\r\n\r\n",
        common_headers(tenant)
    );
    tenant.begins();
    send_again_and_again(tenant, 8_000, head.as_bytes(), true).await;
    Ok(())
}

/// Sends as much of a head as the API accepts.
pub(crate) async fn large_heads(tenant: &Tenant) -> anyhow::Result<()> {
    let head = format!("GET / HTTP/1.1\r\nhost: {}\r\nx-large: {}", tenant.address, "y".repeat(400_000));
    tenant.begins();
    send_again_and_again(tenant, 1_000, head.as_bytes(), true).await;
    Ok(())
}

fn common_headers(tenant: &Tenant) -> String {
    format!("host: {}\r\nauthorization: Bearer {}\r\n", tenant.address, tenant.api_key)
}

/// Sends the same bytes on many connections, and again when the API closes one.
async fn send_again_and_again(tenant: &Tenant, connections: usize, bytes: &[u8], reads: bool) {
    let connections = affordable(connections);
    tenant.note(&format!("at once: {connections}"));
    tenant
        .again_and_again(connections, async |_| {
            let what = match send(tenant.address, bytes, reads).await {
                Ok(answer) if answer.is_empty() => "closed by the API".to_owned(),
                // The response begins `HTTP/1.1 503`.
                Ok(answer) => {
                    format!("request: {}", String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()))
                }
                Err(_) => "cut off".to_owned(),
            };
            tenant.note(&what);
            sleep(PAUSE).await;
        })
        .await;
}

/// Sends bytes. Returns the response if it `reads`; otherwise waits forever.
async fn send(address: SocketAddr, bytes: &[u8], reads: bool) -> std::io::Result<Vec<u8>> {
    let mut stream = open(address).await?;
    stream.write_all(bytes).await?;
    if !reads {
        return std::future::pending().await;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Opens a connection with a small receive buffer.
async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    socket.connect(address).await
}

/// Returns an unknown key of the correct form.
fn unknown_key(key: &str) -> String {
    key.chars().map(|character| if character.is_ascii_digit() { '7' } else { character }).collect()
}

/// Returns the given number of connections, or fewer if the limit on descriptors requires it: both ends may share one
/// limit.
fn affordable(connections: usize) -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(1_024);
    connections.min((limit.saturating_sub(OTHER_DESCRIPTORS) / 2) as usize)
}
