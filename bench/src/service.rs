//! A service of a private installation. It is a process of its own, so that it can be killed and its CPU time measured.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use url::Url;

use crate::roster::Roster;

/// How long a start may take.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Interval between checks of its readiness.
const POLL: Duration = Duration::from_millis(20);
/// Lines of the log that an error message quotes.
const QUOTED_LINES: usize = 8;

pub(crate) struct Service {
    name: &'static str,
    environment: Vec<(String, String)>,
    pub(crate) listen: SocketAddr,
    log: PathBuf,
    roster: Arc<Roster>,
    child: Option<Child>,
}

impl Service {
    /// Starts `postrider <name>`, which logs to `log`.
    pub(crate) fn start(
        name: &'static str,
        environment: &[(String, String)],
        log: PathBuf,
        roster: Arc<Roster>,
    ) -> anyhow::Result<Self> {
        let listen = free_port()?;
        let mut environment = environment.to_vec();
        environment.push((format!("POSTRIDER_{}_LISTEN", name.to_ascii_uppercase()), listen.to_string()));
        let mut service = Self { name, environment, listen, log, roster, child: None };
        service.launch()?;
        Ok(service)
    }

    pub(crate) fn url(&self) -> anyhow::Result<Url> {
        Ok(format!("http://{}/", self.listen).parse()?)
    }

    /// Starts the service again at the same address.
    pub(crate) fn launch(&mut self) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find the path of this program")?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write to {}", self.log.display()))?;
        let mut command = std::process::Command::new(program);
        // A process group of its own: Ctrl-C stops the bench, which then stops its services.
        command.arg(self.name).process_group(0).envs(self.environment.iter().cloned());
        command.env_remove("FAILPOINTS").stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = Command::from(command).kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("cannot start the {}", self.name))?;
        if let Some(pid) = child.id() {
            self.roster.runs(self.name, pid);
        }
        self.child = Some(child);
        Ok(())
    }

    /// Kills the service with SIGKILL.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.roster.ends(self.name);
            let _ = child.kill().await;
        }
    }

    /// Waits until the service is ready.
    pub(crate) async fn ready(&mut self, http: &reqwest::Client) -> anyhow::Result<()> {
        let url = self.url()?.join("health/ready")?;
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let answer = http.get(url.clone()).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let has_ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if has_ended || Instant::now() >= deadline {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let said = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n  ");
                bail!("the {} did not become ready; its log ends with:\n  {said}", self.name);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Returns the address of a port that was free a moment ago.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?)
}
