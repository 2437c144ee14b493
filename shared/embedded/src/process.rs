//! Processes that outlive the one that started them: their user, process group, log and signals.

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

/// A log that is larger than this is renamed when its server starts.
const LARGE_LOG_BYTES: u64 = 16 << 20;
/// The number of lines of a log that an error quotes.
const QUOTED_LINES: usize = 8;
/// How often a condition that should soon be true is checked.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// The user that the servers run as if Postrider runs as root, because PostgreSQL refuses to run as root.
#[derive(Debug, Clone)]
pub(crate) struct RunUser {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl RunUser {
    /// Returns the user under root: the owner of the directory, or else `postgres`, or else `nobody`. Returns `None` if
    /// Postrider does not run as root.
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

    /// Makes a command run as this user. Setting the user also drops the supplementary groups of root.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// The environment variables that other programs inherit: those for finding programs, libraries, time zones and space
/// for temporary files. All others are withheld, because they may be secret or change how the programs behave.
const INHERITED: [&str; 7] =
    ["PATH", "HOME", "TMPDIR", "TZ", "TZDIR", "LD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"];

/// Prepares a program that inherits only these environment variables.
pub(crate) fn bare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// Prepares a program that runs in the data directory as the servers' user. It runs in a process group of its own, so
/// that Ctrl-C does not reach it.
pub(crate) fn command(program: &Path, data_dir: &DataDir) -> Command {
    let mut command = bare(program);
    command.current_dir(data_dir.path()).stdin(Stdio::null()).process_group(0);
    if let Some(user) = &data_dir.user {
        user.apply(&mut command);
    }
    command
}

/// The log of a server, and the position at which the current start begins in it.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    /// Opens the log for a server that is going to start. A large log is renamed first.
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

    /// Returns the log of a server that an earlier process started.
    pub(crate) fn existing(path: PathBuf) -> Self {
        let start = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self { path, start }
    }

    /// Returns what the server has logged since it was started.
    pub(crate) fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            let _ = file.seek(SeekFrom::Start(self.start));
            let _ = file.take(LARGE_LOG_BYTES).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the last lines of the log, for an error message.
    pub(crate) fn last_lines(&self) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let quoted = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n  ");
        format!("The end of its log, {}:\n  {quoted}", self.path.display())
    }
}

/// The process of a server: a child of this process, or one that an earlier `postrider up` left running.
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

    /// Returns the process id, as long as it is valid.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self {
            Self::Child(child) => Pid::from_raw(i32::try_from(child.id()?).ok()?),
            Self::Adopted(pid) => Some(*pid),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // An error only means that the process has already ended, which is the purpose of the signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// Returns true once the process has ended. Reaps it if it is a child.
    pub(crate) fn has_ended(&mut self) -> bool {
        match self {
            Self::Child(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Adopted(pid) => !is_alive(*pid),
        }
    }

    /// Waits until the process ends.
    pub(crate) async fn ended(&mut self) {
        if let Self::Child(child) = self {
            let _ = child.wait().await;
        }
        while !self.has_ended() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the process ends, at most until the deadline. Returns whether it ended.
    pub(crate) async fn ended_before(&mut self, deadline: Instant) -> bool {
        tokio::time::timeout_at(deadline.into(), self.ended()).await.is_ok()
    }
}

/// Returns true while a process with this id is running. A zombie does not count: in containers whose first process is
/// not an init, nothing reaps it.
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
