//! `[access_log]`.

use crate::access_log::{Destination, Format};
use baton_daemon::config::{Problems, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// `[access_log]`: one record for each request; none without the section.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// How lines look: `json` (default), `logfmt` or `common`.
    #[serde(default)]
    pub format: Format,
    /// A file, appended to and opened anew on SIGUSR1; or `stderr`, the default.
    #[serde(default = "stderr")]
    pub path: Spanned<String>,
}

fn stderr() -> Spanned<String> {
    Spanned::new(0..0, "stderr".to_owned())
}

impl AccessLog {
    /// Where lines go.
    pub fn destination(&self) -> Destination {
        match self.path.get_ref().as_str() {
            "stderr" => Destination::Stderr,
            path => Destination::File(path.into()),
        }
    }

    /// How lines look, and where they go.
    pub fn wanted(log: Option<&Spanned<AccessLog>>) -> Option<(Format, Destination)> {
        log.map(|log| (log.get_ref().format, log.get_ref().destination()))
    }

    pub(super) fn validate(log: &Spanned<AccessLog>, problems: &mut Problems<'_>) {
        let path = &log.get_ref().path;
        let Destination::File(file) = log.get_ref().destination() else { return };
        let problem = if !file.is_absolute() {
            Some("must be an absolute path, or \"stderr\"".to_owned())
        } else if file.is_dir() {
            Some("is a directory; name a file in it".to_owned())
        } else {
            let folder = file.parent().unwrap_or(Path::new("/"));
            (!folder.is_dir()).then(|| format!("cannot be made: there is no directory {}", folder.display()))
        };
        if let Some(problem) = problem {
            problems.with(path, format!("access_log.path {:?} {problem}", path.get_ref()));
        }
    }
}
