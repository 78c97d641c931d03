//! intermediate.toml and target-agent.toml.

use crate::plan;
use crate::spec::Sections;
use serde_json::Value;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// One table of a TOML file: its header line, and its keys with their values.
struct Table {
    /// `""` for the top of the file, else the section's name.
    section: &'static str,
    /// Whether it is one of a list, `[[section]]`.
    listed: bool,
    values: Vec<(String, Value)>,
}

fn table(section: &'static str, values: &[(&str, Value)]) -> Table {
    let values = values.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    Table { section, listed: false, values }
}

fn item(section: &'static str, values: &[(&str, Value)]) -> Table {
    Table { listed: true, ..table(section, values) }
}

fn tls(certs: &Path, node: &str) -> Table {
    let file = |name: String| Value::from(certs.join(name).to_string_lossy());
    table(
        "tls",
        &[
            ("ca", file("ca.pem".into())),
            ("cert", file(format!("{node}.pem"))),
            ("key", file(format!("{node}.key"))),
        ],
    )
}

/// What both daemons' files have: the data plane's pins in the lab's own bpffs, and a short linger.
fn plane(bpf: &Path) -> Table {
    table("plane", &[("pin_dir", bpf.to_string_lossy().into()), ("linger_ms", 3000.into())])
}

fn admin(run: &Path) -> Table {
    table("admin", &[("unix", run.join("admin.sock").to_string_lossy().into())])
}

/// Where a daemon finds what the lab made for it.
pub(crate) struct Places<'a> {
    /// The node's run directory.
    pub(crate) run: &'a Path,
    /// Its bpffs.
    pub(crate) bpf: &'a Path,
    /// The certificates.
    pub(crate) certs: &'a Path,
}

/// intermediate.toml.
pub(crate) fn intermediate(
    targets: &[(String, Vec<IpAddr>)],
    vips: &[SocketAddr],
    places: &Places<'_>,
    deviations: &[&Sections],
) -> String {
    let mut tables = vec![
        table("", &[("name", plan::INTERMEDIATE.into()), ("uplink", "eth0".into())]),
        tls(places.certs, plan::INTERMEDIATE),
    ];
    tables.extend(vips.iter().map(|vip| item("listener", &[("vip", vip.to_string().into())])));
    for (name, addresses) in targets {
        let mut values = vec![("name", name.as_str().into())];
        for (key, address) in ["server", "server6"].into_iter().zip(addresses) {
            values.push((key, at(*address, 80)));
        }
        values.extend(addresses.first().map(|a| ("agent", at(*a, plan::CONTROL_PORT))));
        tables.push(item("target", &values));
    }
    tables.extend([plane(places.bpf), admin(places.run)]);
    written(tables, deviations)
}

fn at(address: IpAddr, port: u16) -> Value {
    SocketAddr::new(address, port).to_string().into()
}

/// target-agent.toml.
pub(crate) fn agent(
    name: &str,
    addresses: &[IpAddr],
    vips: &[SocketAddr],
    places: &Places<'_>,
    deviations: &[&Sections],
) -> String {
    let mut top = vec![("name", name.into()), ("uplink", "eth0".into())];
    top.extend(addresses.first().map(|a| ("control", at(*a, plan::CONTROL_PORT))));
    let mut tables = vec![table("", &top), tls(places.certs, name)];
    for (vip, address) in vips.iter().zip(addresses) {
        tables.push(item(
            "allow",
            &[
                ("intermediate", plan::INTERMEDIATE.into()),
                ("vip", vip.to_string().into()),
                ("server", at(*address, 80)),
            ],
        ));
    }
    tables.extend([plane(places.bpf), admin(places.run)]);
    written(tables, deviations)
}

fn written(mut tables: Vec<Table>, deviations: &[&Sections]) -> String {
    let mut added: Vec<(String, Vec<(String, Value)>)> = Vec::new();
    for (section, values) in deviations.iter().flat_map(|d| d.iter()) {
        let mut found = false;
        for table in tables.iter_mut().filter(|t| t.section == section) {
            found = true;
            for (key, value) in values {
                set(&mut table.values, key, value);
            }
        }
        if !found {
            let at = added.iter().position(|(name, _)| name == section).unwrap_or_else(|| {
                added.push((section.clone(), Vec::new()));
                added.len() - 1
            });
            if let Some((_, table)) = added.get_mut(at) {
                values.iter().for_each(|(key, value)| set(table, key, value));
            }
        }
    }
    let mut text = String::from("# Written by netns-lab.\n");
    for t in &tables {
        match (t.section, t.listed) {
            ("", _) => {}
            (name, true) => text.push_str(&format!("\n[[{name}]]\n")),
            (name, false) => text.push_str(&format!("\n[{name}]\n")),
        }
        lines(&mut text, &t.values);
    }
    for (name, values) in &added {
        text.push_str(&format!("\n[{name}]\n"));
        lines(&mut text, values);
    }
    text
}

fn set(values: &mut Vec<(String, Value)>, key: &str, value: &Value) {
    values.retain(|(k, _)| k != key);
    if !value.is_null() {
        values.push((key.to_owned(), value.clone()));
    }
}

/// A string, number, truth value or list is written the same in JSON and in TOML.
fn lines(text: &mut String, values: &[(String, Value)]) {
    for (key, value) in values {
        let _ = writeln!(text, "{key} = {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LabSpec;

    #[test]
    fn deviations_replace_values_extend_sections_and_add_new_ones() {
        let places = Places { run: Path::new("/r"), bpf: Path::new("/b"), certs: Path::new("/c") };
        let spec = LabSpec::new("x")
            .intermediate_with("limits", "head_bytes", 4096)
            .intermediate_with("plane", "linger_ms", 10)
            .intermediate_with("listener", "keepalive", "single")
            .intermediate_with("", "uplink", serde_json::Value::Null);
        let text = intermediate(
            &[("target1".into(), vec![plan::target_addr(1).into()])],
            &[plan::VIP.into()],
            &places,
            &[&spec.intermediate],
        );
        assert_eq!(
            text,
            r#"# Written by netns-lab.
name = "intermediate"

[tls]
ca = "/c/ca.pem"
cert = "/c/intermediate.pem"
key = "/c/intermediate.key"

[[listener]]
vip = "10.90.1.100:80"
keepalive = "single"

[[target]]
name = "target1"
server = "10.90.101.2:80"
agent = "10.90.101.2:7400"

[plane]
pin_dir = "/b"
linger_ms = 10

[admin]
unix = "/r/admin.sock"

[limits]
head_bytes = 4096
"#
        );
    }
}
