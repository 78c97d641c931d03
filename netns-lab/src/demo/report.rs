//! What the demo saw, judged and told.

use super::migrations::{Migration, Quantiles, quantiles};
use super::transfer::Transfer;
use crate::plan;
use crate::spec::{Balancer, Family};
use crate::{EndCounters, LinkCounters};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Below this much payload, handshakes and acknowledgements are a large part of all bytes, and their share says nothing.
const SHARE_FROM: u64 = 10_000_000;

/// What the demo saw.
#[derive(Debug, Clone)]
pub struct Report {
    /// What answered at the VIP.
    pub balancer: Balancer,
    /// How many targets there were.
    pub targets: u8,
    /// Which IP versions there were.
    pub family: Family,
    /// Per path, the SHA-256 of the file on the targets.
    pub references: BTreeMap<String, String>,
    /// Every download.
    pub transfers: Vec<Transfer>,
    /// What the intermediate told of them.
    pub migrations: Vec<Migration>,
    /// What every link carried during the downloads.
    pub links: Vec<LinkCounters>,
    /// Per target, the clients its nginx says it answered.
    pub answered: BTreeMap<String, Vec<String>>,
}

impl Report {
    /// Whether everything was as it should be.
    pub fn ok(&self) -> bool {
        self.problems().is_empty()
    }

    fn sent_by(&self, node: &str) -> EndCounters {
        self.links.iter().find(|l| l.link == node).map(|l| l.node).unwrap_or_default()
    }

    fn outcomes(&self, outcome: &str) -> usize {
        self.migrations.iter().filter(|m| m.outcome == outcome).count()
    }

    /// What the targets sent, all together, in bytes.
    pub fn bytes_targets(&self) -> u64 {
        self.answered.keys().map(|t| self.sent_by(t).tx_bytes).sum()
    }

    /// What the intermediate sent, in bytes: to clients, and to targets what it forwards and hands off.
    pub fn bytes_intermediate(&self) -> u64 {
        self.sent_by(plan::INTERMEDIATE).tx_bytes
    }

    /// What the intermediate sent to clients, in bytes: all it sent but what the targets received, which comes from
    /// nobody else but for the router's few neighbour look-ups. What is lost between them counts here, so over a bad
    /// link this is too much, never too little.
    pub fn bytes_intermediate_to_clients(&self) -> u64 {
        let to_targets: u64 = self.answered.keys().map(|t| self.sent_by(t).rx_bytes).sum();
        self.bytes_intermediate().saturating_sub(to_targets)
    }

    fn payload(&self) -> u64 {
        self.transfers.iter().map(|t| t.bytes).sum()
    }

    fn wrong_hashes(&self) -> usize {
        self.transfers.iter().filter(|t| self.references.get(&t.path) != Some(&t.sha256)).count()
    }

    /// Requests of which nginx names curl's own address and port as the client.
    fn real_clients(&self) -> usize {
        let named: BTreeSet<&String> = self.answered.values().flatten().collect();
        self.transfers.iter().filter(|t| named.contains(&t.client)).count()
    }

    fn handoff(&self) -> Option<Quantiles> {
        let migrated = self.migrations.iter().filter(|m| m.outcome == "migrated");
        quantiles(migrated.filter_map(|m| m.total_us).collect())
    }

    /// Each stage of the migrations, in the order they came.
    fn stages(&self) -> Vec<(String, Quantiles)> {
        let mut all: Vec<(&str, Vec<f64>)> = Vec::new();
        let migrated = self.migrations.iter().filter(|m| m.outcome == "migrated");
        for (name, us) in migrated.flat_map(|m| &m.stages_us.0) {
            match all.iter_mut().find(|(n, _)| n == name) {
                Some((_, values)) => values.push(*us),
                None => all.push((name, vec![*us])),
            }
        }
        all.into_iter().filter_map(|(name, values)| Some((name.to_owned(), quantiles(values)?))).collect()
    }

    /// Everything that was not as it should be.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let all = self.transfers.len();
        for (i, t) in self.transfers.iter().enumerate() {
            if let Some(complaint) = &t.complaint {
                problems.push(format!("request {} for {}: {complaint}", i + 1, t.path));
            } else if t.status != 200 {
                problems.push(format!("request {} for {} was answered with {}", i + 1, t.path, t.status));
            }
        }
        let wrong = self.wrong_hashes();
        if wrong > 0 {
            problems.push(format!("{wrong} of {all} bodies differ from the file on the target"));
        }
        if self.balancer != Balancer::Baton {
            return problems;
        }
        let migrated = self.outcomes("migrated");
        if migrated != all {
            problems.push(format!("{migrated} of {all} requests were migrated"));
        }
        let real = self.real_clients();
        if real != all {
            problems.push(format!("nginx names the real client for {real} of {all} requests"));
        }
        let silent: Vec<_> =
            self.answered.iter().filter(|(_, c)| c.is_empty()).map(|(t, _)| t.as_str()).collect();
        if !silent.is_empty() && all >= usize::from(self.targets) {
            problems.push(format!("no request came to {}", silent.join(", ")));
        }
        if self.payload() >= SHARE_FROM {
            if self.bytes_targets() < self.payload() {
                problems.push("the targets' links carried less than the bodies".to_owned());
            }
            if self.bytes_intermediate_to_clients() * 50 >= self.bytes_targets() {
                problems.push("the intermediate sent clients 2% or more of what the targets sent".to_owned());
            }
        }
        problems
    }

    /// The object `netns-lab demo --json` prints.
    pub fn to_json(&self) -> Value {
        let stages: serde_json::Map<_, _> = self.stages().into_iter().map(|(n, q)| (n, json!(q))).collect();
        let answered: serde_json::Map<_, _> =
            self.answered.iter().map(|(t, c)| (t.clone(), c.len().into())).collect();
        json!({
            "ok": self.ok(),
            "problems": self.problems(),
            "balancer": self.balancer,
            "requests": self.transfers.len(),
            "migrated": self.outcomes("migrated"),
            "proxied": self.outcomes("proxied"),
            "sha256_ok": self.wrong_hashes() == 0,
            "bytes_received": self.payload(),
            "bytes_target_to_client": self.bytes_targets(),
            "bytes_intermediate_to_client": self.bytes_intermediate_to_clients(),
            "handoff_us": self.handoff().unwrap_or_default(),
            "stages_us": stages,
            "answered": answered,
            "links": self.links,
        })
    }

    /// The report for a reader.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let (all, wrong) = (self.transfers.len(), self.wrong_hashes());
        out.push_str(&self.picture());
        writeln!(out, "\nBODIES: {} of {all} arrived as they are on the targets (SHA-256)", all - wrong)?;
        for (path, hash) in &self.references {
            let of: Vec<_> = self.transfers.iter().filter(|t| t.path == *path).collect();
            let equal = of.iter().filter(|t| t.sha256 == *hash).count();
            let seconds: f64 = of.iter().map(|t| t.seconds).sum();
            let bytes: u64 = of.iter().map(|t| t.bytes).sum();
            writeln!(out, "  {path:<6} {hash}  {equal} of {} equal, {}", of.len(), speed(bytes, seconds))?;
        }
        writeln!(out, "\nWHO ANSWERED, by nginx's access logs (real client: curl's own address and port)")?;
        for (target, clients) in &self.answered {
            let addresses: BTreeSet<_> = clients.iter().filter_map(|c| Some(c.rsplit_once(':')?.0)).collect();
            let from: Vec<_> = addresses.into_iter().collect();
            writeln!(out, "  {target:<9} {:>5} requests from {}", clients.len(), from.join(", "))?;
        }
        writeln!(out, "  real client named for {} of {all}", self.real_clients())?;
        writeln!(out, "\nLINKS, bytes and packets during the downloads (a super-packet of GSO counts once)")?;
        writeln!(out, "  {:<13} {:>28} {:>28}", "", "sent by the node", "received by the node")?;
        for link in &self.links {
            let sent = format!("{} B {:>7}", grouped(link.node.tx_bytes), link.node.tx_packets);
            let received = format!("{} B {:>7}", grouped(link.node.rx_bytes), link.node.rx_packets);
            writeln!(out, "  {:<13} {sent:>28} {received:>28}", link.link)?;
        }
        let (targets, to_clients) = (self.bytes_targets(), self.bytes_intermediate_to_clients());
        writeln!(out, "  sent by the targets       {:>17} B", grouped(targets))?;
        writeln!(
            out,
            "  sent by the intermediate  {:>17} B   to targets: what it forwards and hands off",
            grouped(self.bytes_intermediate().saturating_sub(to_clients)),
        )?;
        writeln!(
            out,
            "                            {:>17} B   to clients: {} of what the targets sent",
            grouped(to_clients),
            percent(to_clients, targets)
        )?;
        if self.balancer == Balancer::Baton {
            self.write_handoffs(out)?;
        }
        let problems = self.problems();
        if problems.is_empty() {
            writeln!(out, "\nOK: {}", self.claim())?;
        } else {
            writeln!(out, "\nNOT OK:")?;
            problems.iter().try_for_each(|p| writeln!(out, "  - {p}"))?;
        }
        Ok(())
    }

    fn write_handoffs(&self, out: &mut String) -> std::fmt::Result {
        let (migrated, proxied) = (self.outcomes("migrated"), self.outcomes("proxied"));
        writeln!(out, "\nHANDOFFS: {migrated} migrated, {proxied} proxied; microseconds")?;
        let stages = self.stages();
        if let Some(total) = self.handoff() {
            writeln!(out, "  {:<22} {:>9} {:>9}", "stage", "p50", "p99")?;
            for (name, q) in stages.iter().map(|(n, q)| (n.as_str(), *q)).chain([("total", total)]) {
                writeln!(out, "  {name:<22} {:>9.1} {:>9.1}", q.p50, q.p99)?;
            }
        }
        let mut reasons = BTreeMap::<&str, usize>::new();
        for m in self.migrations.iter().filter(|m| m.outcome != "migrated") {
            *reasons.entry(m.reason.as_deref().unwrap_or("no reason given")).or_default() += 1;
        }
        reasons.iter().try_for_each(|(reason, n)| writeln!(out, "  not migrated: {n} times {reason}"))
    }

    fn claim(&self) -> String {
        match self.balancer {
            Balancer::Baton => {
                "every connection was migrated, and the targets answered the client directly".to_owned()
            }
            other => format!("all bodies arrived; {other} carried every byte of them"),
        }
    }

    fn picture(&self) -> String {
        let all = |addresses: Vec<String>| addresses.join(", ");
        let (client, intermediate, target): (String, String, String) = (
            all(self.family.of(plan::client_addr(1).to_string(), plan::client_addr6(1).to_string())),
            all(self.family.of(plan::INTERMEDIATE_ADDR.to_string(), plan::INTERMEDIATE_ADDR6.to_string())),
            all(self.family.of(plan::target_addr(1).to_string(), plan::target_addr6(1).to_string())),
        );
        let vip = all(plan::vips(self.family).iter().map(ToString::to_string).collect());
        let who = match self.balancer {
            Balancer::Baton => "reads the request, hands the connection over",
            _ => "a proxy: carries every byte",
        };
        let answer = match self.balancer {
            Balancer::Baton => "response: target -> router -> client",
            _ => "response: target -> router -> intermediate -> router -> client",
        };
        format!(
            "
  {client:<34} intermediate {intermediate}, VIP {vip}
       |                                  |   {who}
       |                                  |
       +------------- router -------------+
                        |
                        +---- target1..{n} {target} ...: nginx, unmodified

  request:  client -> router -> intermediate -> router -> target
  {answer}
",
            n = self.targets,
            client = format!("client1 {client}"),
        )
    }
}

/// 1234567 as 1 234 567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2}%", part as f64 * 100.0 / whole as f64) }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn speed(bytes: u64, seconds: f64) -> String {
    if seconds <= 0.0 { "-".to_owned() } else { format!("{:.0} MB/s", bytes as f64 / seconds / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::Stages;

    fn good() -> Report {
        let link = |name: &str, tx_bytes| LinkCounters {
            link: name.into(),
            node: EndCounters { tx_bytes, ..Default::default() },
            router: EndCounters::default(),
        };
        let client = "10.90.11.2:40000".to_owned();
        Report {
            balancer: Balancer::Baton,
            targets: 1,
            family: Family::V4,
            references: [("/100m".to_owned(), "aa".to_owned())].into(),
            transfers: vec![Transfer {
                path: "/100m".into(),
                client: client.clone(),
                status: 200,
                bytes: 104_857_600,
                sha256: "aa".into(),
                seconds: 0.5,
                complaint: None,
            }],
            migrations: vec![Migration {
                client: client.clone(),
                target: "target1".into(),
                outcome: "migrated".into(),
                reason: None,
                stages_us: Stages(vec![("freeze".into(), 3.0)]),
                total_us: Some(80.0),
            }],
            links: vec![link("intermediate", 300_000), link("target1", 105_000_000)],
            answered: [("target1".to_owned(), vec![client])].into(),
        }
    }

    /// What a deviating run's problem says, and the deviation.
    type Deviation = (&'static str, fn(&mut Report));

    #[test]
    fn a_good_run_is_ok_and_each_deviation_is_found() {
        assert_eq!(good().problems(), Vec::<String>::new());
        let deviations: [Deviation; 7] = [
            ("differ from the file", |r| r.transfers[0].sha256 = "bb".into()),
            ("answered with 502", |r| r.transfers[0].status = 502),
            ("reset", |r| r.transfers[0].complaint = Some("reset by peer".into())),
            ("were migrated", |r| r.migrations[0].outcome = "proxied".into()),
            ("real client", |r| r.answered = [("target1".into(), vec!["10.90.1.2:5".into()])].into()),
            ("2% or more", |r| r.links[0].node.tx_bytes = 105_000_000),
            ("no request came to target2", |r| drop(r.answered.insert("target2".into(), vec![]))),
        ];
        for (words, deviate) in deviations {
            let mut report = good();
            deviate(&mut report);
            assert!(report.problems().iter().any(|p| p.contains(words)), "{words}: {:?}", report.problems());
            assert!(report.to_text().contains("NOT OK"));
            assert_eq!(report.to_json()["ok"], false);
        }
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([grouped(0), grouped(999), grouped(1_234_567)], ["0", "999", "1 234 567"]);
    }
}
