//! Mistakes in a configuration file, each with its place.

use std::fmt::{self, Display};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Collects what is wrong with a file.
#[derive(Debug)]
pub struct Problems<'a> {
    path: &'a Path,
    text: &'a str,
    /// With the place's byte offset, by which they are sorted.
    found: Vec<(usize, String)>,
}

impl<'a> Problems<'a> {
    /// None yet.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Problems { path, text, found: Vec::new() }
    }

    /// None yet, of the same file; what is put there is not heard of here.
    pub fn unheard(&self) -> Self {
        Problems { path: self.path, text: self.text, found: Vec::new() }
    }

    /// Something is wrong at these bytes of the file.
    pub fn at(&mut self, span: Range<usize>, message: impl Display) {
        let (line, column) = place(self.text, span.start);
        self.found.push((span.start, format!("{}:{line}:{column}: {message}", self.path.display())));
    }

    /// Something is wrong with this value.
    pub fn with<T>(&mut self, value: &Spanned<T>, message: impl Display) {
        self.at(value.span(), message);
    }

    /// Unless `right`, something is wrong with this value.
    pub fn require<T>(&mut self, value: &Spanned<T>, right: bool, message: impl Display) {
        if !right {
            self.with(value, message);
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// An error if something was found.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    pub(super) fn into_error(mut self) -> ConfigError {
        self.found.sort_by_key(|(offset, _)| *offset);
        // One value may be wrong for several that use it.
        self.found.dedup();
        ConfigError {
            path: self.path.to_owned(),
            lines: self.found.into_iter().map(|(_, line)| line).collect(),
        }
    }
}

/// Line and column of a byte offset, both from 1, the column in characters.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    (line, before.get(start..).unwrap_or_default().chars().count() + 1)
}

/// A configuration file that cannot be used. Displayed as one line per problem; the exit code for it is 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// `FILE:LINE:COL: message`, in the order of the file.
    pub lines: Vec<String>,
}

impl ConfigError {
    /// The exit code for a wrong configuration.
    pub const EXIT_CODE: u8 = 2;

    pub(super) fn whole_file(path: &Path, message: &str) -> Self {
        ConfigError { path: path.to_owned(), lines: vec![format!("{}: {message}", path.display())] }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}
