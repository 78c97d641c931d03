//! The demo: downloads by a real curl from the VIP, and the proof that the targets answered directly.

mod migrations;
mod report;
mod transfer;

pub use migrations::{Migration, Quantiles, Stages};
pub use report::Report;
pub use transfer::Transfer;

use crate::spec::{Balancer, Family, Plane};
use crate::{Impairment, Lab, LabSpec, content, counters, interrupt};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often the intermediate is asked for its migrations; it remembers the most recent ones only.
const ASK_EVERY: usize = 50;

/// What the demo shall do.
#[derive(Debug, Clone)]
pub struct DemoSpec {
    /// How many targets.
    pub targets: u8,
    /// What answers at the VIP.
    pub balancer: Balancer,
    /// Who carries the packets of migrated connections.
    pub plane: Plane,
    /// Which IP versions there are; with both, downloads take turns.
    pub family: Family,
    /// What client1's link does to packets.
    pub impair: Option<Impairment>,
    /// The paths to download, one after the other.
    pub plan: Vec<String>,
    /// Whether to say on standard error what is being done.
    pub progress: bool,
}

/// The downloads: without wishes one /100m per target and 20 of /10k; with one, that many of that path.
///
/// # Errors
/// When the path is none of the lab's files.
pub fn plan(targets: u8, requests: Option<u32>, path: Option<&str>) -> Result<Vec<String>> {
    let known: Vec<String> = content::FILES.iter().map(|(name, _)| format!("/{name}")).collect();
    if let Some(path) = path
        && !known.iter().any(|k| k == path)
    {
        bail!("--path {path}: the targets serve {}", known.join(" "));
    }
    let many = |n: u32, path: &str| (0..n).map(|_| path.to_owned()).collect::<Vec<_>>();
    Ok(match (requests, path) {
        (None, None) => [many(u32::from(targets), "/100m"), many(20, "/10k")].concat(),
        (None, Some(path)) => many(20, path),
        (Some(n), path) => many(n, path.unwrap_or("/100m")),
    })
}

/// Brings a lab up, downloads, and takes it down; what was seen is in the report.
///
/// # Errors
/// When the lab does not come up, or a signal came. That something was not as it should be is no error: the report
/// says it.
pub fn run(spec: &DemoSpec) -> Result<Report> {
    if spec.balancer == Balancer::None {
        bail!("the demo downloads from the VIP; without a balancer there is none");
    }
    let say = |text: &str| {
        if spec.progress {
            eprintln!("{text}");
        }
    };
    say(&format!(
        "bringing up a lab: client, router, intermediate ({}), {} targets",
        spec.balancer, spec.targets
    ));
    let name = format!("demo-{}", std::process::id());
    let order = LabSpec::new(name)
        .targets(spec.targets)
        .balancer(spec.balancer)
        .family(spec.family)
        .plane(spec.plane);
    let lab = Lab::up(&LabSpec { impair: spec.impair, ..order })?;
    let mut references = BTreeMap::new();
    for path in spec.plan.iter().collect::<BTreeSet<_>>() {
        references.insert(path.clone(), hashes_on_targets(&lab, path)?);
    }
    let vips = lab.vips();
    let shown: Vec<_> = vips.iter().map(|vip| format!("http://{vip}")).collect();
    say(&format!("{} downloads by curl from {}", spec.plan.len(), shown.join(" and ")));
    let before = lab.link_counters()?;
    let mut transfers = Vec::new();
    let mut seen = BTreeMap::new();
    for (i, (path, vip)) in spec.plan.iter().zip(vips.iter().cycle()).enumerate() {
        interrupt::check()?;
        transfers.push(transfer::download(&lab, "client1", *vip, path)?);
        if spec.balancer == Balancer::Baton && (i + 1) % ASK_EVERY == 0 {
            migrations::collect(&lab, &mut seen)?;
        }
    }
    if spec.balancer == Balancer::Baton {
        migrations::collect(&lab, &mut seen)?;
    }
    let links = counters::difference(&before, &lab.link_counters()?);
    let answered = answered(&lab, transfers.len())?;
    say("taking the lab down\n");
    drop(lab);
    Ok(Report {
        balancer: spec.balancer,
        targets: spec.targets,
        family: spec.family,
        references,
        transfers,
        migrations: seen.into_values().collect(),
        links,
        answered,
    })
}

/// The hash of a file as every target has it; all the same, since they serve the same content.
fn hashes_on_targets(lab: &Lab, path: &str) -> Result<String> {
    let file = lab.www_dir().join(path.trim_start_matches('/'));
    let file = file.to_str().context("the lab's directory is text")?;
    let mut all = BTreeSet::new();
    for (target, _) in lab.targets() {
        let line = lab.output(&target, &["sha256sum", file])?;
        all.insert(line.split(' ').next().unwrap_or_default().to_owned());
    }
    match (all.pop_first(), all.is_empty()) {
        (Some(hash), true) => Ok(hash),
        _ => bail!("the targets have different {path}"),
    }
}

/// Whom the targets' access logs name as the clients they answered: per target, "address:port" of each request.
fn answered(lab: &Lab, expected: usize) -> Result<BTreeMap<String, Vec<String>>> {
    let mut all = BTreeMap::new();
    // nginx writes the line after the last byte was sent, so possibly after curl has ended.
    interrupt::wait_until(Duration::from_secs(3), || {
        for (target, _) in lab.targets() {
            let text = std::fs::read_to_string(lab.access_log(&target)).unwrap_or_default();
            let clients = text.lines().filter_map(|line| {
                let mut words = line.split(' ');
                Some(transfer::endpoint(words.next()?, words.next()?))
            });
            all.insert(target, clients.collect::<Vec<_>>());
        }
        Ok(all.values().map(Vec::len).sum::<usize>() >= expected)
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_follows_the_wishes() {
        assert_eq!(plan(2, None, None).unwrap().len(), 22);
        assert_eq!(plan(2, Some(3), None).unwrap(), ["/100m", "/100m", "/100m"]);
        assert_eq!(plan(2, Some(1), Some("/1k")).unwrap(), ["/1k"]);
        assert!(plan(2, None, Some("/2k")).unwrap_err().to_string().contains("/100k"));
    }
}
