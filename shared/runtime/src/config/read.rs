//! Reads settings and collects every mistake, so that a user can fix them all at once.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::{SETTINGS, Setting};

/// All mistakes in a configuration, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// The texts of the settings from all sources. Never printed, because some are secrets.
#[derive(Clone, Default)]
pub struct Source {
    values: HashMap<&'static str, String>,
    mistakes: Vec<String>,
}

impl Source {
    /// Gathers every setting. The value is what `given` returns (from the flag or the environment variable), or else
    /// the contents of the file that `X_FILE` names, or else the default.
    pub fn gather(given: impl Fn(&Setting) -> Option<String>, env: impl Fn(&str) -> Option<String>) -> Self {
        let mut source = Self::default();
        for setting in SETTINGS {
            let file_variable = format!("{}_FILE", setting.env);
            let is_nonempty = |text: &String| !text.is_empty();
            let value = match (given(setting).filter(is_nonempty), env(&file_variable).filter(is_nonempty)) {
                (Some(value), _) => Some(value),
                (None, Some(path)) => match std::fs::read_to_string(&path) {
                    Ok(text) => Some(text.trim_end().to_owned()),
                    Err(error) => {
                        source.mistakes.push(format!("{file_variable}: cannot read `{path}`: {error}"));
                        None
                    }
                },
                (None, None) => setting.default.map(str::to_owned),
            };
            if let Some(value) = value {
                source.values.insert(setting.env, value);
            }
        }
        source
    }

    /// Sets one value. `up` sets the addresses of the servers that it has started.
    pub fn set(&mut self, env: &'static str, value: impl Into<String>) {
        self.values.insert(env, value.into());
    }

    /// Returns the value of a setting, if it has one.
    #[must_use]
    pub fn get(&self, env: &str) -> Option<&str> {
        self.values.get(env).map(String::as_str)
    }

    /// Parses a configuration from the settings.
    ///
    /// # Errors
    /// All mistakes that were found.
    pub fn read<T>(&self, parse: impl FnOnce(&mut Reader<'_>) -> T) -> Result<T, Mistakes> {
        let mut reader = Reader { source: self, mistakes: self.mistakes.clone() };
        let config = parse(&mut reader);
        reader.mistakes.sort();
        reader.mistakes.dedup();
        if reader.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(reader.mistakes)) }
    }
}

/// Parses settings one by one. For each mistake it records the mistake and returns a placeholder.
pub struct Reader<'a> {
    source: &'a Source,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    /// Records what is wrong with a setting.
    pub fn mistake(&mut self, setting: &Setting, what: impl fmt::Display) {
        self.mistakes.push(format!("{} (--{}): {what}", setting.env, setting.flag()));
    }

    /// Reads a setting that must have a value.
    pub fn required<T>(&mut self, setting: &Setting) -> T
    where
        T: FromStr<Err: fmt::Display> + Placeholder,
    {
        self.required_with(setting, str::parse)
    }

    /// Reads a setting that must have a value, and parses it with `parse`.
    pub fn required_with<T: Placeholder, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        self.required_or(setting, parse, T::placeholder)
    }

    /// Reads a setting that must have a value, for types from other crates. `placeholder` is returned if the value
    /// cannot be read.
    pub fn required_or<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, E>,
        placeholder: impl FnOnce() -> T,
    ) -> T {
        match self.source.get(setting.env) {
            None => self.mistake(setting, "must be set"),
            Some(text) => match parse(text) {
                Ok(value) => return value,
                Err(error) => self.mistake(setting, error),
            },
        }
        placeholder()
    }

    /// Reads an optional setting.
    pub fn optional<T: FromStr<Err: fmt::Display>>(&mut self, setting: &Setting) -> Option<T> {
        self.optional_with(setting, str::parse)
    }

    /// Reads an optional setting, and parses it with `parse`.
    pub fn optional_with<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(self.source.get(setting.env)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(setting, error);
                None
            }
        }
    }

    /// Reads a whole number from `least` to `most`.
    pub fn in_range(&mut self, setting: &Setting, least: u64, most: u64) -> u64 {
        self.required_with(setting, |text| match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(format!("`{text}` is not a whole number from {least} to {most}")),
        })
    }

    /// Reads a comma-separated list. It is empty if the setting is absent.
    pub fn list<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut items = Vec::new();
        let texts = self.source.get(setting.env).unwrap_or_default().to_owned();
        for text in texts.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match parse(text) {
                Ok(item) => items.push(item),
                Err(error) => self.mistake(setting, error),
            }
        }
        items
    }
}

/// The text is not a socket address.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an address such as `127.0.0.1:8000` or `:8000`")]
pub struct InvalidSocketAddress(String);

/// Parses an address to listen on or to connect to, such as `127.0.0.1:8000` or `:8000` (all interfaces).
///
/// # Errors
/// [`InvalidSocketAddress`] if the text is neither.
pub fn socket_address(text: &str) -> Result<SocketAddr, InvalidSocketAddress> {
    let full =
        if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replace("localhost", "127.0.0.1") };
    full.parse().map_err(|_| InvalidSocketAddress(text.to_owned()))
}

/// Stands in for a value that could not be read. It is never used, because a mistake prevents the start.
pub trait Placeholder {
    /// Returns any value of the type.
    fn placeholder() -> Self;
}

macro_rules! placeholder_by_default {
    ($($type:ty),+) => { $(impl Placeholder for $type { fn placeholder() -> Self { Self::default() } })+ };
}

placeholder_by_default!(bool, u64, String);

impl Placeholder for SocketAddr {
    fn placeholder() -> Self {
        ([127, 0, 0, 1], 0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_in_for_a_variable() {
        let file = std::env::temp_dir().join(format!("postrider-setting-{}", std::process::id()));
        std::fs::write(&file, "redis://from-a-file\n").expect("a file");
        let path = file.to_string_lossy().into_owned();
        let source = Source::gather(|_| None, |name| (name == "REDIS_URL_FILE").then(|| path.clone()));
        std::fs::remove_file(&file).expect("the file");
        assert_eq!(source.get("REDIS_URL"), Some("redis://from-a-file"));
    }
}
