//! Processes that outlive the one that started them: their user, their group, their log, their signals.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::EmbeddedError;
use crate::data_dir::DataDir;

/// A log that is larger than this is put aside when its server starts.
const LARGE_LOG_BYTES: u64 = 16 << 20;
/// How much of a log an error quotes.
const QUOTED_LINES: usize = 8;
/// How often something that should happen soon is looked for.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// As whom the servers run where Postrider itself runs as root: PostgreSQL refuses to run as root.
#[derive(Debug, Clone)]
pub(crate) struct RunUser {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl RunUser {
    /// Under root: whoever owns the directory, or `postgres`, or `nobody`. Otherwise nobody else.
    pub(crate) fn for_directory(directory: &Path) -> Result<Option<Self>, EmbeddedError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let owner =
            std::fs::metadata(directory).map_err(EmbeddedError::io("read the metadata of", directory))?;
        if owner.uid() != 0 {
            let uid = owner.uid();
            let user = uzers::get_user_by_uid(uid);
            let name = user
                .map_or_else(|| format!("number {uid}"), |user| user.name().to_string_lossy().into_owned());
            return Ok(Some(Self { name, uid, gid: owner.gid() }));
        }
        ["postgres", "nobody"].into_iter().find_map(Self::named).map(Some).ok_or(EmbeddedError::NoUser)
    }

    fn named(name: &str) -> Option<Self> {
        let user = uzers::get_user_by_name(name)?;
        Some(Self { name: name.to_owned(), uid: user.uid(), gid: user.primary_group_id() })
    }

    /// Makes a command run as this user. Setting the user drops the supplementary groups of root.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// What other programs inherit of the environment: where they find programs, libraries, time zones and room for
/// temporary files. Everything else stays here, and with it whatever is secret or would change what they do.
const INHERITED: [&str; 7] =
    ["PATH", "HOME", "TMPDIR", "TZ", "TZDIR", "LD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"];

/// A program that gets no environment but that.
pub(crate) fn bare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// A program that is to run in the data directory as the servers' user, in a process group of its own, so
/// that Ctrl-C does not reach it.
pub(crate) fn command(program: &Path, data_dir: &DataDir) -> Command {
    let mut command = bare(program);
    command.current_dir(data_dir.path()).stdin(Stdio::null()).process_group(0);
    if let Some(user) = &data_dir.user {
        user.apply(&mut command);
    }
    command
}

/// The log of a server, and where in it the present start begins.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    /// Opens the log for a server that is about to start; a large one is put aside first.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, File), EmbeddedError> {
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LARGE_LOG_BYTES) {
            let aside = path.with_extension("log.old");
            std::fs::rename(&path, aside).map_err(EmbeddedError::io("rename", &path))?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(EmbeddedError::io("open", &path))?;
        let start = file.metadata().map_err(EmbeddedError::io("read the metadata of", &path))?.len();
        Ok((Self { path, start }, file))
    }

    /// The log of a server that was started by an earlier process.
    pub(crate) fn existing(path: PathBuf) -> Self {
        let start = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self { path, start }
    }

    /// What the server has said since it was started.
    pub(crate) fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            let _ = file.seek(SeekFrom::Start(self.start));
            let _ = file.take(LARGE_LOG_BYTES).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of it, for an error to quote.
    pub(crate) fn last_lines(&self) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let quoted = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n  ");
        format!("The end of its log, {}:\n  {quoted}", self.path.display())
    }
}

/// A server's process: our child, or one that an earlier `postrider up` left behind.
#[derive(Debug)]
pub(crate) enum Process {
    Child(tokio::process::Child),
    Adopted(Pid),
}

impl Process {
    /// Starts a server that writes to `log`.
    pub(crate) fn spawn(mut command: Command, log: &File) -> std::io::Result<Self> {
        command.stdout(log.try_clone()?).stderr(log.try_clone()?);
        Ok(Self::Child(tokio::process::Command::from(command).spawn()?))
    }

    /// The number of the process, while it is known to be one.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self {
            Self::Child(child) => Pid::from_raw(i32::try_from(child.id()?).ok()?),
            Self::Adopted(pid) => Some(*pid),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended meanwhile, which is what signals are sent for here.
            let _ = kill_process(pid, signal);
        }
    }

    /// True once it has ended; reaps it where it is ours.
    pub(crate) fn has_ended(&mut self) -> bool {
        match self {
            Self::Child(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Adopted(pid) => !is_alive(*pid),
        }
    }

    /// Waits until it ends.
    pub(crate) async fn ended(&mut self) {
        if let Self::Child(child) = self {
            let _ = child.wait().await;
        }
        while !self.has_ended() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until it ends, at most until the deadline; tells whether it did.
    pub(crate) async fn ended_before(&mut self, deadline: Instant) -> bool {
        tokio::time::timeout_at(deadline.into(), self.ended()).await.is_ok()
    }
}

/// True while a process of that number runs. One that has ended but that nobody has reaped (containers
/// whose first process is no init) does not run.
pub(crate) fn is_alive(pid: Pid) -> bool {
    if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else {
        return true;
    };
    // `pid (name) state …`, where the name may contain anything.
    !status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}
