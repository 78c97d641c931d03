//! What a handoff takes from the freeze until it is installed, as the intermediate tells of each in `/v1/migrations`.

use super::Side;
use crate::{Lab, plan};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// As many as the intermediate remembers.
const MOST: usize = 10_000;
/// How long is waited for what the intermediate has not told of yet: a response may be faster than that.
const PATIENCE: Duration = Duration::from_secs(2);

/// The newest handoff at some moment: those behind it came later.
pub(super) struct Since<'a> {
    lab: &'a Lab,
    newest: Option<String>,
}

#[derive(Deserialize)]
struct List {
    migrations: Vec<Handoff>,
}

#[derive(Deserialize)]
struct Handoff {
    id: String,
    total_us: f64,
}

impl<'a> Since<'a> {
    /// From now on. None: nothing is handed off on this way.
    pub(super) fn now(side: &'a Side) -> Result<Option<Self>> {
        if !side.way.is_baton() {
            return Ok(None);
        }
        let newest = ask(&side.lab, 1)?.pop().map(|handoff| handoff.id);
        Ok(Some(Since { lab: &side.lab, newest }))
    }

    /// Microseconds of each handoff since, at most the newest that the intermediate remembers; there should be `expected`.
    pub(super) fn durations(&self, expected: u64) -> Result<Vec<f64>> {
        let expected = usize::try_from(expected).unwrap_or(MOST).min(MOST);
        let begun = Instant::now();
        loop {
            let all = ask(self.lab, MOST)?;
            let known = self.newest.as_deref();
            let since: Vec<f64> =
                all.iter().take_while(|h| Some(h.id.as_str()) != known).map(|h| h.total_us).collect();
            if since.len() >= expected || begun.elapsed() > PATIENCE {
                return Ok(since);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Newest first.
fn ask(lab: &Lab, limit: usize) -> Result<Vec<Handoff>> {
    let path = format!("/v1/migrations?outcome=migrated&limit={limit}");
    let list: List = serde_json::from_value(lab.admin_get(plan::INTERMEDIATE, &path)?)
        .context("cannot read /v1/migrations")?;
    Ok(list.migrations)
}
