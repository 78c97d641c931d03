//! The files of a configuration: one, or one and those it includes, read as if they were one.

use super::{ConfigError, Problems, Spanned};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Texts one behind the other, and whose they are.
#[derive(Debug)]
pub struct Sources {
    /// Where each begins.
    files: Vec<(usize, PathBuf)>,
    text: String,
}

/// Of the main file, before its own keys are known.
#[derive(Deserialize)]
struct Including {
    include: Option<Spanned<String>>,
}

impl Sources {
    /// One text.
    pub fn one(path: &Path, text: &str) -> Self {
        Sources { files: vec![(0, path.to_owned())], text: text.to_owned() }
    }

    /// A file, and those that its key `include` names. These have tables of the lists `parts` and nothing else.
    pub(super) fn read(path: &Path, parts: &[&str]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::whole_file(path, &format!("cannot be read: {e}")))?;
        let mut sources = Sources::one(path, &text);
        if parts.is_empty() {
            return Ok(sources);
        }
        // What else is wrong with it is told by who reads it whole.
        let Ok(Including { include: Some(include) }) = toml::from_str(&text) else { return Ok(sources) };
        let names = included(path, &include).map_err(|problem| {
            let mut problems = Problems::new(&sources);
            problems.with(&include, problem);
            problems.into_error()
        })?;
        for name in names {
            let text = std::fs::read_to_string(&name)
                .map_err(|e| ConfigError::whole_file(&name, &format!("cannot be read: {e}")))?;
            check_part(&name, &text, parts)?;
            sources.add(&name, &text);
        }
        Ok(sources)
    }

    fn add(&mut self, path: &Path, text: &str) {
        self.text.push('\n');
        self.files.push((self.text.len(), path.to_owned()));
        self.text.push_str(text);
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The files, in the order they were read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(_, path)| path.as_path())
    }

    /// Each file's text.
    pub fn parts(&self) -> impl Iterator<Item = (&Path, &str)> {
        let ends = self.files.iter().skip(1).map(|(start, _)| start - 1).chain([self.text.len()]);
        self.files
            .iter()
            .zip(ends)
            .map(|((start, path), end)| (path.as_path(), self.text.get(*start..end).unwrap_or_default()))
    }

    /// File, line and column of a byte; line and column from 1, the column in characters.
    pub(super) fn place(&self, offset: usize) -> (&Path, usize, usize) {
        let file = self.files.iter().rfind(|(start, _)| *start <= offset);
        let (start, path) = file.map_or((0, Path::new("")), |(start, path)| (*start, path.as_path()));
        let before = self.text.get(start..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let begin = before.rfind('\n').map_or(0, |n| n + 1);
        (path, line, before.get(begin..).unwrap_or_default().chars().count() + 1)
    }
}

/// The files that `include` names, in the order of their names; it is relative to the main file.
fn included(main: &Path, include: &Spanned<String>) -> Result<Vec<PathBuf>, String> {
    let named = include.get_ref();
    let folder = main.parent().unwrap_or(Path::new(""));
    let pattern = if Path::new(named).is_absolute() || folder.as_os_str().is_empty() {
        named.clone()
    } else {
        format!("{}/{named}", glob::Pattern::escape(&folder.to_string_lossy()))
    };
    let found =
        glob::glob(&pattern).map_err(|e| format!("include {named:?} is no pattern for file names: {e}"))?;
    let mut files = Vec::new();
    for file in found {
        files.push(file.map_err(|e| format!("include {named:?}: {e}"))?);
    }
    files.retain(|file| file.is_file());
    files.sort();
    if files.is_empty() && !named.contains(['*', '?', '[']) {
        return Err(format!(
            "include {named:?}: there is no such file; a pattern, as \"conf.d/*.toml\", may match none"
        ));
    }
    if files.iter().any(|file| file.canonicalize().ok() == main.canonicalize().ok()) {
        return Err(format!("include {named:?} names this file itself"));
    }
    Ok(files)
}

/// A part read by itself must be right TOML with lists of tables alone: read behind another one it means the same then.
fn check_part(path: &Path, text: &str, parts: &[&str]) -> Result<(), ConfigError> {
    let sources = Sources::one(path, text);
    let mut problems = Problems::new(&sources);
    match DeTable::parse(text) {
        Err(e) => problems.at(e.span().unwrap_or(0..0), e.message().replace('\n', ", ")),
        Ok(table) => {
            for (key, value) in table.get_ref() {
                let name = key.get_ref().as_ref();
                let listed = matches!(value.get_ref(), DeValue::Array(_));
                if !parts.contains(&name) {
                    let lists = parts.iter().map(|part| format!("[[{part}]]")).collect::<Vec<_>>().join(", ");
                    problems
                        .at(key.span(), format!("{name:?} cannot stand in an included file, only {lists}"));
                } else if !listed {
                    problems.at(key.span(), format!("{name:?} must be a list of tables here: [[{name}]]"));
                }
            }
        }
    }
    problems.finish()
}
