//! Finds the installed programs of PostgreSQL and Redis.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::EmbeddedError;
use crate::process::bare;

/// The oldest supported PostgreSQL.
const OLDEST_POSTGRES: u32 = 15;

/// The programs of one PostgreSQL installation.
#[derive(Debug, Clone)]
pub(crate) struct PostgresPrograms {
    pub(crate) major: u32,
    directory: PathBuf,
}

impl PostgresPrograms {
    pub(crate) fn postgres(&self) -> PathBuf {
        self.directory.join("postgres")
    }

    pub(crate) fn initdb(&self) -> PathBuf {
        self.directory.join("initdb")
    }
}

/// Returns the newest installed PostgreSQL.
pub(crate) fn newest_postgres() -> Result<PostgresPrograms, EmbeddedError> {
    let mut installed = installed_postgres(postgres_directories());
    match installed.pop_last() {
        Some((major, directory)) if major >= OLDEST_POSTGRES => Ok(PostgresPrograms { major, directory }),
        Some((major, _)) => Err(EmbeddedError::PostgresTooOld { major, oldest: OLDEST_POSTGRES }),
        None => Err(EmbeddedError::PostgresMissing),
    }
}

/// Returns the PostgreSQL of the major version that created `cluster`.
pub(crate) fn postgres_of_cluster(cluster: &Path, major: &str) -> Result<PostgresPrograms, EmbeddedError> {
    let mut installed = installed_postgres(postgres_directories());
    if let Some(directory) = major.parse().ok().and_then(|major| installed.remove(&major)) {
        return Ok(PostgresPrograms { major: major.parse().unwrap_or_default(), directory });
    }
    if installed.is_empty() {
        return Err(EmbeddedError::PostgresMissing);
    }
    let installed: Vec<_> = installed.keys().map(u32::to_string).collect();
    Err(EmbeddedError::WrongMajor {
        cluster: cluster.to_owned(),
        major: major.to_owned(),
        installed: installed.join(", "),
    })
}

/// Returns the path of `redis-server`, or of Valkey's server, which accepts the same arguments.
pub(crate) fn redis_server() -> Result<PathBuf, EmbeddedError> {
    let mut directories = search_path();
    directories.extend(["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|program| directories.iter().map(move |directory| directory.join(program)))
        .find(|program| program.is_file())
        .ok_or(EmbeddedError::RedisMissing)
}

/// Returns all directories in which distributions install PostgreSQL. If a version is found twice, the first one is
/// used.
fn postgres_directories() -> Vec<PathBuf> {
    let mut directories = versioned("/usr/lib/postgresql", "", "bin");
    directories.extend(search_path());
    directories.extend(versioned("/usr", "pgsql-", "bin"));
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt"] {
        directories.extend(versioned(homebrew, "postgresql", "bin"));
    }
    if let Some(directory) = first_line(bare("pg_config").arg("--bindir")) {
        directories.push(directory.into());
    }
    directories
}

/// Returns `parent/<prefix>…/child` for every directory whose name begins with `prefix`.
fn versioned(parent: &str, prefix: &str, child: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(child))
        .collect()
}

fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn installed_postgres(directories: Vec<PathBuf>) -> BTreeMap<u32, PathBuf> {
    let mut installed = BTreeMap::new();
    for directory in directories {
        let program = directory.join("postgres");
        if !program.is_file() {
            continue;
        }
        // A link in /usr/local/bin may point to a single program. Use the directory that it really is in.
        let real = program.canonicalize().ok().and_then(|program| Some(program.parent()?.to_owned()));
        let directory = real.unwrap_or(directory);
        if directory.join("initdb").is_file()
            && let Some(version) = first_line(bare(&program).arg("--version"))
            && let Some(major) = major_version(&version)
        {
            installed.entry(major).or_insert(directory);
        }
    }
    installed
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}

/// `postgres (PostgreSQL) 15.12 (Debian 15.12-1)` → 15.
fn major_version(text: &str) -> Option<u32> {
    let number =
        text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn the_major_version_is_read_from_what_the_program_says() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 17.5 (Homebrew)", Some(17)),
            ("postgres", None),
        ] {
            assert_eq!(major_version(text), major, "{text}");
        }
    }
}
