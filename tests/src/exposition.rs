//! The text of `/metrics`, checked against its format (OpenMetrics 1.0) and our own rules for names.

use std::collections::{BTreeMap, BTreeSet};

/// A metric family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    help: String,
    unit: String,
    /// Names, labels and values of its samples.
    samples: Vec<(String, Labels, String)>,
}

type Labels = BTreeMap<String, String>;

/// Label sets of one family at most: what outsiders send must not make new ones.
const LABEL_SETS: usize = 200;
/// What a name must not have: other units than the base units.
const OTHER_UNITS: [&str; 8] = ["milli", "micro", "nano", "minutes", "hours", "kilo", "mega", "percent"];

/// The families, by name; or everything that is wrong.
pub fn read(text: &str) -> Result<BTreeMap<String, Family>, Vec<String>> {
    let (mut families, mut faults) = (BTreeMap::<String, Family>::new(), Vec::new());
    let Some(text) = text.strip_suffix("# EOF\n") else { return Err(vec!["no end".to_owned()]) };
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let rest = words.next().unwrap_or_default().to_owned();
            let family = families.entry(name.to_owned()).or_default();
            let place = match what {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                "UNIT" => &mut family.unit,
                _ => {
                    faults.push(format!("not understood: {line}"));
                    continue;
                }
            };
            if !std::mem::replace(place, rest).is_empty() {
                faults.push(format!("said twice: {line}"));
            }
            continue;
        }
        let Some((name, labels, value)) = sample(line) else {
            faults.push(format!("not understood: {line}"));
            continue;
        };
        // The longest that fits: of two names one may begin with the other.
        let fits = |(family, of): &(&String, &mut Family)| {
            name.strip_prefix(family.as_str()).is_some_and(|suffix| of.suffixes().contains(&suffix))
        };
        match families.iter_mut().filter(fits).max_by_key(|(family, _)| family.len()) {
            Some((_, family)) => family.samples.push((name, labels, value)),
            None => faults.push(format!("a sample of no family: {line}")),
        }
    }
    for (name, family) in &families {
        family.judge(name, &mut faults);
    }
    if faults.is_empty() { Ok(families) } else { Err(faults) }
}

/// Name, labels and value.
fn sample(line: &str) -> Option<(String, Labels, String)> {
    let (name, value) = line.rsplit_once(' ')?;
    value.parse::<f64>().ok()?;
    let Some((name, labels)) = name.split_once('{') else {
        return Some((name.to_owned(), Labels::new(), value.to_owned()));
    };
    let mut found = Labels::new();
    let mut rest = labels.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"")?;
        // No value of ours has a quotation mark in it.
        let (value, more) = quoted.split_once('"')?;
        found.insert(label.trim_start_matches(',').to_owned(), value.to_owned());
        rest = more;
    }
    Some((name.to_owned(), found, value.to_owned()))
}

impl Family {
    /// What samples' names have behind the family's.
    fn suffixes(&self) -> &'static [&'static str] {
        match self.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            "gauge" => &[""],
            _ => &[],
        }
    }

    fn judge(&self, name: &str, faults: &mut Vec<String>) {
        let mut wrong = |what: &str| faults.push(format!("{name}: {what}"));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.starts_with("baton_") || !name.chars().all(plain) {
            wrong("its name is not baton_PART_WHAT_UNIT");
        }
        if OTHER_UNITS.iter().any(|unit| name.contains(unit)) {
            wrong("not in base units");
        }
        if self.suffixes().is_empty() {
            wrong("no TYPE, or one that is not known");
        }
        if !self.help.ends_with('.') {
            wrong("no HELP, or no sentence");
        }
        if !self.unit.is_empty() && !name.ends_with(&format!("_{}", self.unit)) {
            wrong("its name does not end with its UNIT");
        }
        if name.ends_with("_seconds") && self.kind != "info" && self.unit != "seconds" {
            wrong("seconds without UNIT");
        }
        let mut seen = BTreeSet::new();
        for (sample, labels, value) in &self.samples {
            if !seen.insert((sample, labels)) {
                wrong(&format!("{sample}{labels:?} stands twice"));
            }
            if value.starts_with('-') && self.kind != "gauge" {
                wrong(&format!("{sample}{labels:?} is negative"));
            }
        }
        let sets: BTreeSet<Labels> = self.samples.iter().map(|(_, labels, _)| without_le(labels)).collect();
        if sets.len() > LABEL_SETS {
            wrong(&format!("{} label sets", sets.len()));
        }
        if self.kind == "histogram" {
            for labels in sets {
                self.judge_buckets(&labels, &mut wrong);
            }
        }
    }

    /// Of one histogram.
    fn judge_buckets(&self, labels: &Labels, wrong: &mut impl FnMut(&str)) {
        let number = |value: &str| value.parse::<f64>().unwrap_or(f64::NAN);
        let mut buckets = Vec::new();
        let (mut count, mut sum) = (None, None);
        for (sample, of, value) in self.samples.iter().filter(|(_, of, _)| without_le(of) == *labels) {
            match of.get("le") {
                Some(le) => buckets.push((number(le), number(value))),
                None if sample.ends_with("_count") => count = Some(number(value)),
                None => sum = Some(number(value)),
            }
        }
        if !buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
            wrong(&format!("{labels:?}: buckets out of order: {buckets:?}"));
        }
        let whole = buckets.last().is_some_and(|(le, all)| le.is_infinite() && Some(*all) == count);
        if !whole || sum.is_none() {
            wrong(&format!("{labels:?}: the last bucket is not all of them, or there is no sum"));
        }
    }

    /// Upper bounds of its buckets, but for the last; in order.
    pub fn bounds(&self) -> Vec<String> {
        let mut bounds = Vec::new();
        for le in self.samples.iter().filter_map(|(_, labels, _)| labels.get("le")) {
            if le != "+Inf" && !bounds.contains(le) {
                bounds.push(le.clone());
            }
        }
        bounds
    }

    /// The names of its labels.
    pub fn labels(&self) -> BTreeSet<String> {
        let names = self.samples.iter().flat_map(|(_, labels, _)| without_le(labels).into_keys());
        names.collect()
    }

    /// As in queries: the name of a counter's sample has `_total` behind it.
    pub fn shown(&self, name: &str) -> String {
        match self.kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        }
    }
}

fn without_le(labels: &Labels) -> Labels {
    labels.iter().filter(|(name, _)| *name != "le").map(|(n, v)| (n.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP baton_requests Requests.\n# TYPE baton_requests counter\nbaton_requests_total{outcome=\"migrated\",a=\"b c\"} 3\n\
# HELP baton_requests_bytes Bytes.\n# TYPE baton_requests_bytes counter\nbaton_requests_bytes_total 3\n\
# HELP baton_stage_seconds Time.\n# TYPE baton_stage_seconds histogram\n# UNIT baton_stage_seconds seconds\n\
baton_stage_seconds_sum{stage=\"a\"} 1.5\nbaton_stage_seconds_count{stage=\"a\"} 2\n\
baton_stage_seconds_bucket{le=\"0.00002\",stage=\"a\"} 1\nbaton_stage_seconds_bucket{le=\"+Inf\",stage=\"a\"} 2\n# EOF\n";

    #[test]
    fn a_good_text_is_read() {
        let families = read(GOOD).unwrap();
        assert_eq!(families.len(), 3);
        assert_eq!(families["baton_stage_seconds"].bounds(), ["0.00002"]);
        assert_eq!(families["baton_requests"].labels().into_iter().collect::<Vec<_>>(), ["a", "outcome"]);
        assert_eq!(families["baton_requests"].shown("baton_requests"), "baton_requests_total");
    }

    #[test]
    fn each_fault_is_found() {
        for (good, bad) in [
            ("# EOF\n", ""),
            ("baton_requests_total{", "baton_requests{"),
            ("# TYPE baton_requests counter", "# TYPE baton_requests colour"),
            ("HELP baton_requests Requests.", "HELP baton_requests Requests"),
            ("# HELP baton_requests Requests.\n", ""),
            ("# UNIT baton_stage_seconds seconds\n", ""),
            ("baton_requests_bytes_total 3", "baton_requests_bytes_total 3\nbaton_requests_bytes_total 3"),
            ("baton_requests_bytes_total 3", "baton_requests_bytes_total -3"),
            ("baton_requests_bytes_total 3", "baton_requests_bytes_total x"),
            ("{le=\"0.00002\",stage=\"a\"} 1", "{le=\"0.00002\",stage=\"a\"} 3"),
            ("{le=\"+Inf\",stage=\"a\"} 2", "{le=\"+Inf\",stage=\"a\"} 1"),
            ("baton_stage_seconds_sum{stage=\"a\"} 1.5\n", ""),
        ] {
            assert!(GOOD.contains(good), "{good}");
            assert!(read(&GOOD.replacen(good, bad, 1)).is_err(), "{good} -> {bad}");
        }
        for name in ["baton_requests_microseconds", "nginx_requests"] {
            assert!(read(&GOOD.replace("baton_requests_bytes", name)).is_err(), "{name}");
        }
    }
}
