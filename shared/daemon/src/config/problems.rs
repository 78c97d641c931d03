//! Mistakes in a configuration file, each with its place.

use super::{Sources, Spanned};
use std::fmt::{self, Display};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Collects what is wrong with a configuration.
#[derive(Debug)]
pub struct Problems<'a> {
    sources: &'a Sources,
    /// With the place's byte offset, by which they are sorted.
    found: Vec<(usize, String)>,
}

impl<'a> Problems<'a> {
    /// None yet.
    pub fn new(sources: &'a Sources) -> Self {
        Problems { sources, found: Vec::new() }
    }

    /// None yet, of the same configuration; what is put there is not heard of here.
    pub fn unheard(&self) -> Self {
        Problems::new(self.sources)
    }

    /// Something is wrong at these bytes.
    pub fn at(&mut self, span: Range<usize>, message: impl Display) {
        let (path, line, column) = self.sources.place(span.start);
        self.found.push((span.start, format!("{}:{line}:{column}: {message}", path.display())));
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
            path: self.sources.paths().next().unwrap_or(Path::new("")).to_owned(),
            lines: self.found.into_iter().map(|(_, line)| line).collect(),
        }
    }
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
