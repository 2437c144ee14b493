//! Markdown, as far as the documentation is checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The root of the project.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the project")
}

/// A file of the documentation.
pub(crate) struct Document {
    /// Its path from the root of the project.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) links: Vec<Link>,
    /// The anchors that a link can name after `#`.
    anchors: BTreeSet<String>,
}

/// A link that does not lead to the internet.
pub(crate) struct Link {
    pub(crate) target: String,
    /// The line that contains it.
    pub(crate) line: String,
    /// Its text, if that is code.
    code: Option<String>,
    /// The file that contains it.
    from: PathBuf,
}

impl Document {
    /// Every file of the documentation: in the root, in `script`, and under `docs`.
    pub(crate) fn all() -> Vec<Self> {
        let mut paths = Vec::new();
        collect(&root(), false, &mut paths);
        collect(&root().join("script"), false, &mut paths);
        collect(&root().join("docs"), true, &mut paths);
        paths.sort();
        assert!(paths.len() > 5, "only {} files were found", paths.len());
        paths.into_iter().map(Self::read).collect()
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::read(root().join(name))
    }

    fn read(path: PathBuf) -> Self {
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.strip_prefix(root()).expect("it is in the project").to_string_lossy().into_owned();
        let (mut links, mut anchors) = (Vec::new(), BTreeSet::new());
        let (mut heading, mut link): (Option<String>, Option<Link>) = (None, None);
        for (event, range) in Parser::new_ext(&text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let count =
                        (1..).find(|&count| !anchors.contains(&numbered(&anchor, count))).expect("endless");
                    anchors.insert(numbered(&anchor, count));
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let line = text[..range.start].rsplit('\n').next().unwrap_or_default().to_owned()
                        + text[range.start..].lines().next().unwrap_or_default();
                    link = Some(Link { target: dest_url.to_string(), line, code: None, from: path.clone() });
                }
                Event::End(TagEnd::Link | TagEnd::Image) => {
                    links.extend(link.take().filter(|link| !link.is_of_the_internet()));
                }
                Event::Text(part) | Event::Code(part) if heading.is_some() => {
                    heading.get_or_insert_default().push_str(&part);
                }
                Event::Code(part) => {
                    if let Some(link) = &mut link {
                        link.code = Some(part.to_string());
                    }
                }
                _ => {}
            }
        }
        Self { name, path, text, links, anchors }
    }

    /// The cells of all table rows whose first cell begins with `beginning`.
    pub(crate) fn rows_that_begin_with(&self, beginning: &str) -> Vec<Vec<String>> {
        let rows = self.text.lines().filter_map(|line| line.strip_prefix("| "));
        rows.filter(|row| row.starts_with(beginning))
            .map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect()
    }

    /// The words of capitals, digits and `_` that begin with `beginning`.
    pub(crate) fn words_that_begin_with(&self, beginning: &str) -> BTreeSet<String> {
        let is_part = |char: char| char.is_ascii_uppercase() || char.is_ascii_digit() || char == '_';
        let words = self.text.split(|char| !is_part(char));
        words
            .filter(|word| word.len() > beginning.len() && word.starts_with(beginning))
            .map(str::to_owned)
            .collect()
    }
}

impl Link {
    fn is_of_the_internet(&self) -> bool {
        ["http://", "https://", "mailto:"].iter().any(|scheme| self.target.starts_with(scheme))
    }

    /// The file that it leads to.
    pub(crate) fn path(&self) -> PathBuf {
        let file = self.target.split('#').next().unwrap_or_default();
        if file.is_empty() {
            return self.from.clone();
        }
        let path = self.from.parent().expect("a file is in a directory").join(file);
        path.canonicalize().unwrap_or(path)
    }

    /// Returns what is wrong with it, or `None`.
    pub(crate) fn mistake(&self, documents: &[Document]) -> Option<String> {
        let path = self.path();
        if !path.exists() {
            return Some("there is no such file".to_owned());
        }
        if !path.starts_with(root()) {
            return Some("leads out of the project".to_owned());
        }
        let (_, anchor) = self.target.split_once('#')?;
        let document = documents.iter().find(|document| document.path == path);
        let has_anchor = document.is_some_and(|document| document.anchors.contains(anchor));
        (!has_anchor).then(|| format!("{} has no heading `#{anchor}`", path.display()))
    }

    /// True for a link such as [`name`](src/file.rs), but not for [`src/file.rs`](src/file.rs).
    pub(crate) fn names_something_in_a_source_file(&self) -> bool {
        let is_source = [".rs", ".lua", ".sql"].iter().any(|extension| self.target.ends_with(extension));
        is_source
            && self
                .code
                .as_ref()
                .is_some_and(|code| !code.contains('/') && !self.target.ends_with(code.as_str()))
    }

    /// The last part of the name that its text names.
    pub(crate) fn named(&self) -> &str {
        self.code.as_deref().and_then(|code| code.rsplit([':', '.']).next()).unwrap_or_default()
    }
}

/// True if the line has the number, with or without commas.
pub(crate) fn has_number(line: &str, number: u64) -> bool {
    let plain = line.replace(',', "");
    plain.split(|char: char| !char.is_ascii_digit()).any(|digits| digits.parse() == Ok(number))
}

/// The anchor that GitHub makes from a heading.
fn anchor(heading: &str) -> String {
    let is_kept = |char: &char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_');
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(is_kept)
        .map(|char| if char == ' ' { '-' } else { char })
        .collect()
}

fn numbered(anchor: &str, count: usize) -> String {
    if count == 1 { anchor.to_owned() } else { format!("{anchor}-{}", count - 1) }
}

fn collect(directory: &Path, is_deep: bool, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory of the project") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && is_deep {
            collect(&path, true, paths);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
}
