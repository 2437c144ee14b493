//! Services, in this process or as processes that can be killed.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use metrics_exporter_prometheus::PrometheusHandle;
use postrider_api::ApiConfig;
use postrider_deliverer::DelivererConfig;
use postrider_relay::RelayConfig;
use postrider_runtime::config::{SETTINGS, Source};
use postrider_runtime::health::Health;
use postrider_runtime::telemetry;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Bed;

/// One metrics recorder for the process, however many services it runs.
fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS
        .get_or_init(|| {
            let mut source = Source::default();
            source.set("POSTRIDER_LOG", std::env::var("POSTRIDER_LOG").unwrap_or_else(|_| "warn".to_owned()));
            let _ = telemetry::start_logging(&source);
            telemetry::start_metrics()
        })
        .clone()
}

/// Services in this process.
pub struct Services {
    pub api: SocketAddr,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Services {
    /// Starts one of each service.
    pub async fn start(bed: &Bed) -> Self {
        Self::start_with(bed, &[]).await
    }

    /// Starts one of each service with these settings.
    pub async fn start_with(bed: &Bed, settings: &[(&'static str, &str)]) -> Self {
        let mut services = Self::api_alone(bed, settings).await;
        services.relay(bed, settings);
        services.deliverer(bed, settings);
        services
    }

    /// Starts only the API.
    pub async fn api_alone(bed: &Bed, settings: &[(&'static str, &str)]) -> Self {
        let config = with(&bed.source, settings).read(ApiConfig::read).expect("the configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let serving = tokio::spawn(async move {
            Box::pin(postrider_api::run(config, listener, Health::default(), metrics(), stop))
                .await
                .expect("the API");
        });
        Self { api, shutdown, tasks: vec![serving] }
    }

    /// Adds a relay.
    pub fn relay(&mut self, bed: &Bed, settings: &[(&'static str, &str)]) {
        let config = with(&bed.source, settings).read(RelayConfig::read).expect("the configuration");
        let stop = self.shutdown.clone();
        self.tasks.push(tokio::spawn(async move {
            postrider_relay::run(config, Health::default(), stop).await.expect("the relay");
        }));
    }

    /// Adds a deliverer.
    pub fn deliverer(&mut self, bed: &Bed, settings: &[(&'static str, &str)]) {
        let config = with(&bed.source, settings).read(DelivererConfig::read).expect("the configuration");
        let stop = self.shutdown.clone();
        self.tasks.push(tokio::spawn(async move {
            postrider_deliverer::run(config, Health::default(), stop).await.expect("the deliverer");
        }));
    }

    /// Stops all services, and expects a clean shutdown.
    pub async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.expect("a service that stops cleanly");
        }
    }
}

fn with(source: &Source, settings: &[(&'static str, &str)]) -> Source {
    let mut source = source.clone();
    for (name, value) in settings {
        source.set(name, *value);
    }
    source
}

/// A service as its own process, which is killed when this is dropped.
pub struct Process {
    child: Child,
    pub listen: SocketAddr,
}

impl Process {
    /// Starts `postrider <role>` on a free port.
    pub fn start(bed: &Bed, role: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_at(bed, role, free_port(), environment)
    }

    /// Starts it at the address of one that ran before.
    pub fn start_at(bed: &Bed, role: &str, listen: SocketAddr, environment: &[(&str, &str)]) -> Self {
        let is_shown = std::env::var_os("POSTRIDER_TEST_LOGS").is_some();
        let stderr = if is_shown { Stdio::inherit() } else { Stdio::null() };
        Self::start_logging(bed, role, listen, environment, stderr)
    }

    /// Starts it with this log.
    pub fn start_logging(
        bed: &Bed,
        role: &str,
        listen: SocketAddr,
        environment: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        Self::spawn(command, bed, role, listen, environment, log)
    }

    /// Starts it with at most this many file descriptors.
    pub fn start_limited(
        bed: &Bed,
        role: &str,
        descriptors: u32,
        environment: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Self {
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_postrider")]);
        Self::spawn(command, bed, role, free_port(), environment, log)
    }

    fn spawn(
        mut command: Command,
        bed: &Bed,
        role: &str,
        listen: SocketAddr,
        environment: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Self {
        command.arg(role).stdin(Stdio::null()).stdout(Stdio::null()).env("POSTRIDER_LOG", "warn");
        for setting in SETTINGS {
            if let Some(value) = bed.source.get(setting.env) {
                command.env(setting.env, value);
            }
        }
        command.env(format!("POSTRIDER_{}_LISTEN", role.to_ascii_uppercase()), listen.to_string());
        // `up` serves health and metrics on the address of its API.
        command.env("POSTRIDER_API_LISTEN", listen.to_string());
        let is_armed = environment.iter().any(|(name, _)| *name == "FAILPOINTS");
        assert!(!is_armed || cfg!(feature = "failpoints"), "needs `--features postrider/failpoints`");
        command.env_remove("FAILPOINTS");
        command.stderr(log);
        command.envs(environment.iter().copied());
        Self { child: command.spawn().expect("the program of this crate"), listen }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM, waits for the end, and returns whether the status was 0.
    pub async fn terminate(mut self) -> bool {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill");
        assert!(status.success());
        super::eventually("the end of a process", async || self.child.try_wait().expect("its status"))
            .await
            .success()
    }

    /// True once the process has ended.
    pub fn has_died(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }

    /// Waits until the process has ended, as at a failpoint.
    pub async fn died(&mut self) -> ExitStatus {
        super::eventually("the death of a process", async || self.child.try_wait().expect("its status")).await
    }

    /// Returns the response of `/health/…`, or `None` if the process does not listen yet.
    pub async fn health(&self, what: &str) -> Option<(u16, Value)> {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let response = client.get(format!("http://{}/health/{what}", self.listen)).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.expect("JSON")))
    }

    /// Waits until it reports that it is ready.
    pub async fn ready(&self) {
        super::eventually("a service that is ready", async || {
            let (status, _) = self.health("ready").await?;
            (status == 200).then_some(())
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago and that the system does not give to outgoing connections.
pub fn free_port() -> SocketAddr {
    let mut candidates = std::iter::repeat_with(|| rand::random_range(20_000..32_000));
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    SocketAddr::from(([127, 0, 0, 1], candidates.find(is_free).expect("it retries until it succeeds")))
}

/// A wall clock for a process, which can be set while the process runs.
pub struct Clock {
    library: String,
    file: tempfile::NamedTempFile,
}

impl Clock {
    /// A clock with this offset, such as `+1d`, or `None` if libfaketime is not installed.
    pub fn new(offset: &str) -> Option<Self> {
        let library = glob("/usr/lib", "faketime/libfaketimeMT.so.1")?;
        let clock = Self { library, file: tempfile::NamedTempFile::new().expect("a file") };
        clock.set(offset);
        Some(clock)
    }

    /// Makes the clock step to this offset.
    pub fn set(&self, offset: &str) {
        std::fs::write(self.file.path(), offset).expect("written");
    }

    /// The environment of a process that uses this clock. Its monotonic clock is not changed.
    pub fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", self.file.path().to_str().expect("a path")),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}

/// Returns the first `directory/*/rest` that exists.
fn glob(directory: &str, rest: &str) -> Option<String> {
    let entries = std::fs::read_dir(directory).ok()?;
    let candidates = entries.flatten().map(|entry| entry.path().join(rest));
    candidates.filter(|path| path.exists()).map(|path| path.to_string_lossy().into_owned()).next()
}
