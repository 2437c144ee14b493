//! A connection to PostgreSQL that can be cut.

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;

use super::Bed;

/// A proxy to the database of a test. It can be closed, or cut so that neither end notices.
pub struct Wire {
    /// The URL of the database at the near end.
    pub url: String,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    cuts: u32,
    is_closed: bool,
}

impl Wire {
    pub async fn to(bed: &Bed) -> Self {
        let config: tokio_postgres::Config =
            bed.source.get("DATABASE_URL").expect("it was set").parse().expect("a URL");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (user, name) = (config.get_user().expect("a user"), config.get_dbname().expect("a database"));
        let password = config.get_password().map(|password| String::from_utf8_lossy(password).into_owned());
        let password = password.map(|password| format!(" password='{password}'")).unwrap_or_default();
        let url = format!("host=127.0.0.1 port={} user={user} dbname={name}{password}", address.port());
        let state = watch::Sender::new(State::default());
        let states = state.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                if !states.borrow().is_closed {
                    tokio::spawn(carry(client, config.clone(), states.subscribe()));
                }
            }
        });
        Self { url, state, accepting }
    }

    /// Stops carrying data on all existing connections, without closing them.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Accepts no more connections.
    pub fn close(&self) {
        self.state.send_modify(|state| state.is_closed = true);
    }

    /// Accepts connections again.
    pub fn open(&self) {
        self.state.send_modify(|state| state.is_closed = false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries data until an end is closed or the wire is cut. After a cut both ends stay open, and nothing moves.
async fn carry(mut client: TcpStream, config: tokio_postgres::Config, mut states: watch::Receiver<State>) {
    let cuts = states.borrow().cuts;
    let cut = async move {
        let _ = states.wait_for(|state| state.cuts > cuts).await;
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let carried = match &config.get_hosts()[0] {
        Host::Unix(directory) => {
            match UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await {
                Ok(mut server) => tokio::select! {
                    carried = tokio::io::copy_bidirectional(&mut client, &mut server) => carried,
                    () = cut => std::future::pending().await,
                },
                Err(error) => Err(error),
            }
        }
        Host::Tcp(host) => match TcpStream::connect((host.as_str(), port)).await {
            Ok(mut server) => tokio::select! {
                carried = tokio::io::copy_bidirectional(&mut client, &mut server) => carried,
                () = cut => std::future::pending().await,
            },
            Err(error) => Err(error),
        },
    };
    // The client at the near end sees its connection closed.
    drop(carried);
}
