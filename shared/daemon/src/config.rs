//! Configuration files: TOML in which every mistake is reported as `FILE:LINE:COL: message`, columns in characters.
//!
//! ```no_run
//! use baton_daemon::config::{self, Problems, Spanned, TlsFiles, Validate};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config { tls: TlsFiles, weight: Spanned<u32> }
//!
//! impl Validate for Config {
//!     fn validate(&self, problems: &mut Problems<'_>) {
//!         problems.require(&self.weight, *self.weight.get_ref() > 0, "weight must be at least 1");
//!     }
//! }
//! # fn main() -> Result<(), config::ConfigError> {
//! let config: Config = config::load_valid("node.toml")?;
//! # Ok(()) }
//! ```

mod problems;
mod settings;
#[cfg(test)]
mod tests;

pub use crate::tls::TlsFiles;
pub use problems::{ConfigError, Problems};
pub use settings::{AdminSettings, PlaneKind, PlaneSettings, check_device};
pub use toml::Spanned;

use serde::de::DeserializeOwned;
use std::path::Path;

/// A configuration that can be looked through for what TOML's types do not say.
pub trait Validate {
    /// Reports everything that is wrong.
    fn validate(&self, problems: &mut Problems<'_>);
}

/// Reads and parses; the first mistake in syntax, keys or types is the error.
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    let path = path.as_ref();
    let text = read(path)?;
    parse(path, &text)
}

/// Reads, parses and validates; all mistakes found by [`Validate`] are reported together.
pub fn load_valid<T: DeserializeOwned + Validate>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    load_with(path, |config: &T, problems| config.validate(problems))
}

/// As [`load_valid`], for checks that need more than the file.
pub fn load_with<T: DeserializeOwned>(
    path: impl AsRef<Path>,
    validate: impl FnOnce(&T, &mut Problems<'_>),
) -> Result<T, ConfigError> {
    let path = path.as_ref();
    let text = read(path)?;
    let config = parse(path, &text)?;
    let mut problems = Problems::new(path, &text);
    validate(&config, &mut problems);
    problems.finish()?;
    Ok(config)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|e| ConfigError::whole_file(path, &format!("cannot be read: {e}")))
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let mut problems = Problems::new(path, text);
        // The message may span lines; each problem is one line.
        let message = e.message().replace('\n', ", ");
        problems.at(e.span().unwrap_or(0..0), message);
        problems.into_error()
    })
}
