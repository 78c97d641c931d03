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
mod reference;
mod settings;
mod similar;
mod sources;
mod spanned;
#[cfg(test)]
mod tests;

pub use crate::tls::TlsFiles;
pub use problems::{ConfigError, Problems};
pub use reference::reference;
pub use settings::{AdminSettings, PlaneKind, PlaneSettings, check_device};
pub use similar::did_you_mean;
pub use sources::Sources;
pub use spanned::Spanned;

use serde::de::DeserializeOwned;
use std::path::Path;

/// A configuration that can be looked through for what TOML's types do not say.
pub trait Validate {
    /// Reports everything that is wrong.
    fn validate(&self, problems: &mut Problems<'_>);
}

/// Reads and parses; the first mistake in syntax, keys or types is the error.
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    load_parts(path.as_ref(), &[], |_: &T, _| {}).map(|(config, _)| config)
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
    load_parts(path.as_ref(), &[], validate).map(|(config, _)| config)
}

/// As [`load_with`], of a file that may include others (key `include`, a pattern relative to it) which have tables of
/// the lists `parts`. Gives what was read, too.
pub fn load_parts<T: DeserializeOwned>(
    path: &Path,
    parts: &[&str],
    validate: impl FnOnce(&T, &mut Problems<'_>),
) -> Result<(T, Sources), ConfigError> {
    let sources = Sources::read(path, parts)?;
    let mut problems = Problems::new(&sources);
    let config = match toml::from_str(sources.text()) {
        Ok(config) => config,
        Err(e) => {
            // The message may span lines; each problem is one line.
            let message = e.message().replace('\n', ", ");
            problems.at(e.span().unwrap_or(0..0), similar::with_hint(&message));
            return Err(problems.into_error());
        }
    };
    validate(&config, &mut problems);
    problems.finish()?;
    Ok((config, sources))
}
