use super::*;
use crate::certs::{self, Node};
use baton_shared::control::Role;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    name: Spanned<String>,
    #[serde(default)]
    plane: PlaneSettings,
    #[serde(default)]
    admin: AdminSettings,
    tls: Option<TlsFiles>,
}

impl Validate for Sample {
    fn validate(&self, problems: &mut Problems<'_>) {
        problems.require(&self.name, !self.name.get_ref().is_empty(), "name must not be empty");
        self.plane.validate(Role::Intermediate, problems);
        self.admin.validate(problems);
        if let Some(tls) = &self.tls {
            tls.validate(Role::Intermediate, self.name.get_ref(), problems);
        }
    }
}

/// What is said of a text, the file's name cut off.
fn said(text: &str) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let prefix = format!("{}:", file.path().display());
    match load_valid::<Sample>(file.path()) {
        Ok(_) => Vec::new(),
        Err(e) => e.to_string().lines().map(|l| l.strip_prefix(&prefix).unwrap().to_owned()).collect(),
    }
}

#[test]
fn every_mistake_has_its_place() {
    let cases: &[(&str, &[&str])] = &[
        ("name = \"a\"", &[]),
        ("name = \"a\"\nnmae = 1", &["2:1: unknown field `nmae`"]),
        ("name = \"a\"\n[plane]\n  flowz = 1", &["3:3: unknown field `flowz`"]),
        ("name = 7", &["1:8: invalid type: integer `7`"]),
        ("name = \"a", &["1:"]),
        ("", &["1:1: missing field `name`"]),
        ("name = \"a\"\n[admin]\ntcp = \"localhost\"", &["3:7: "]),
        ("name = \"a\"\n[admin]\ntcp = \"0.0.0.0:80\"", &["3:7: admin.tcp must be a loopback address"]),
        // Columns are characters: the value stands behind four of them that have two bytes each.
        ("\"näme\" = 1", &["1:1: unknown field"]),
        (
            "name = \"\"\n[plane]\nflows = 0\ntun = \"a/b\"\nidle_ms = 5000",
            &[
                "1:8: name must not be empty",
                "3:9: flows must be between",
                "4:7: tun must be a device",
                "5:11: idle_ms is a setting of the agent",
            ],
        ),
        ("plane = \"userspace\"\nname = \"a\"", &[]),
        (
            "name = \"a\"\n plane = \"kernel\"",
            &["2:10: unknown variant `kernel`, expected `ebpf` or `userspace`"],
        ),
        (
            "name = \"a\"\nplane = 7",
            &["2:9: invalid type: integer `7`, expected \"ebpf\", \"userspace\" or a table"],
        ),
        ("name = \"a\"\n[plane]\nkind = \"kernel\"", &["3:8: unknown variant `kernel`"]),
        ("name = \"a\"\n[plane]\nflows = \"many\"", &["3:9: invalid type: string \"many\", expected u32"]),
        ("name = \"a\"\n[plane]\n  flows = 7\n  flows = 8", &["4:3: duplicate key"]),
        ("name = \"a\"\nplane = \"ebpf\"\n[plane]\nflows = 7", &["3:2: "]),
        ("name = \"a\"\nplane = { tun = \"ääää/\", flows = 0 }", &["2:17: tun", "2:34: flows"]),
    ];
    for (text, expected) in cases {
        let said = said(text);
        assert_eq!(said.len(), expected.len(), "{text:?}: {said:?}");
        for (line, beginning) in said.iter().zip(*expected) {
            assert!(line.starts_with(beginning), "{text:?}: {line:?} does not begin with {beginning:?}");
        }
    }
}

#[test]
fn the_plane_is_a_name_or_a_table() {
    let plane = |text: &str| toml::from_str::<Sample>(&format!("{text}\nname = \"a\"")).unwrap().plane;
    let table = "plane.kind = \"userspace\"\nplane.flows = 7";
    for (text, kind, flows) in [
        ("", PlaneKind::Ebpf, 65_536),
        ("plane = \"ebpf\"", PlaneKind::Ebpf, 65_536),
        ("plane = \"userspace\"", PlaneKind::Userspace, 65_536),
        ("plane = { flows = 7 }", PlaneKind::Ebpf, 7),
        (table, PlaneKind::Userspace, 7),
    ] {
        let plane = plane(text);
        assert_eq!((plane.kind, *plane.flows.get_ref()), (kind, flows), "{text}");
    }
}

#[test]
fn an_ended_flows_record_outlives_the_kernels_time_wait() {
    // TCP_TIMEWAIT_LEN (include/net/tcp.h): so long a server's kernel answers what is left of a connection it closed first.
    const TIME_WAIT_MS: u64 = 60_000;
    let plane = PlaneSettings::default();
    assert!(*plane.linger_ms.get_ref() > TIME_WAIT_MS, "{}", plane.linger_ms.get_ref());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load::<Sample>("/nonexistent/x.toml").unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/x.toml: cannot be read: "), "{error}");
}

#[test]
fn tls_files_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = [Node::new(Role::Intermediate, "front", &[], 30), Node::new(Role::Agent, "target1", &[], 30)];
    certs::make(dir.path(), &nodes).unwrap();
    let d = dir.path().display();
    let config = |cert: &str, key: &str| {
        said(&format!(
            "name = \"front\"\n[tls]\nca = \"{d}/ca.pem\"\ncert = \"{d}/{cert}\"\nkey = \"{d}/{key}\""
        ))
    };
    assert_eq!(config("front.pem", "front.key"), [] as [String; 0]);
    for (cert, key, line, part) in [
        ("nothing.pem", "front.key", "4:8: ", "cannot be read"),
        ("front.key", "front.key", "4:8: ", "holds no certificate"),
        ("front.pem", "front.pem", "5:7: ", "holds no private key"),
        ("front.pem", "target1.key", "5:7: ", "does not fit"),
        ("target1.pem", "target1.key", "4:8: ", "was made for agent \"target1\""),
    ] {
        let said = config(cert, key);
        assert!(
            said.len() == 1 && said[0].starts_with(line) && said[0].contains(part),
            "{cert} {key}: {said:?}"
        );
    }
}
