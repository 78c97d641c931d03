//! The tables both daemons' files have.

use super::{Problems, Spanned};
use crate::tls::{TlsFile, TlsFiles};
use baton_shared::access::{Access, Level, Who};
use baton_shared::control::Role;
use schemars::{JsonSchema, Schema, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use time::OffsetDateTime;

impl TlsFiles {
    /// Reports files that are missing, unreadable, not what they should be, expired, signed by another authority, or
    /// made for another node.
    pub fn validate(&self, role: Role, name: &str, problems: &mut Problems<'_>) {
        let identity = match self.load() {
            Ok(identity) => identity,
            Err(e) => {
                let key = match e.file {
                    TlsFile::Ca => &self.ca,
                    TlsFile::Cert => &self.cert,
                    TlsFile::Key => &self.key,
                };
                return problems.with(key, e);
            }
        };
        let facts = &identity.facts;
        let cert = self.cert.get_ref().display();
        if facts.role != role || facts.name != name {
            let (found, wanted) = (facts.role.name(), role.name());
            let found_name = &facts.name;
            problems.with(
                &self.cert,
                format!("{cert} was made for {found} {found_name:?}, this node is {wanted} {name:?}"),
            );
        }
        if let Some(problem) = facts.validity_problem(OffsetDateTime::now_utc()) {
            problems.with(&self.cert, format!("{cert} {problem}"));
        } else if let Err(problem) = identity.verify_own_chain() {
            problems.with(&self.cert, format!("{cert}: {problem}"));
        }
    }
}

/// `plane.kind`: who carries the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlaneKind {
    /// The eBPF programs.
    #[default]
    Ebpf,
    /// The daemon itself, for where eBPF cannot be loaded: CAP_NET_ADMIN in the network namespace is enough.
    Userspace,
}

/// `[plane]`: the data plane. All keys have defaults. `plane = "userspace"` is short for a table with nothing but this `kind`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
// The derived functions read and write the table; the traits' are below.
#[serde(deny_unknown_fields, default, remote = "Self")]
#[schemars(transform = or_a_kind)]
pub struct PlaneSettings {
    /// Who carries the packets.
    pub kind: PlaneKind,
    /// Directory on a bpffs under which maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Flows the tables hold; memory is taken for all of them at start.
    pub flows: Spanned<u32>,
    /// Milliseconds a flow's record stays after its end.
    pub linger_ms: Spanned<u64>,
    /// Milliseconds without a packet after which the agent ends a flow; only the agent has this key.
    pub idle_ms: Option<Spanned<u64>>,
    /// The TUN device's name.
    pub tun: Spanned<String>,
}

/// The table's schema, and that of its short form.
fn or_a_kind(schema: &mut Schema) {
    let table = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "type": "string", "enum": ["ebpf", "userspace"] }, table] });
}

impl<'de> Deserialize<'de> for PlaneSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindOrTable;

        impl<'de> Visitor<'de> for KindOrTable {
            type Value = PlaneSettings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"ebpf\", \"userspace\" or a table")
            }

            fn visit_str<E: de::Error>(self, kind: &str) -> Result<PlaneSettings, E> {
                let kind = PlaneKind::deserialize(kind.into_deserializer())?;
                Ok(PlaneSettings { kind, ..PlaneSettings::default() })
            }

            fn visit_map<M: MapAccess<'de>>(self, table: M) -> Result<PlaneSettings, M::Error> {
                PlaneSettings::deserialize(MapAccessDeserializer::new(table))
            }
        }

        deserializer.deserialize_any(KindOrTable)
    }
}

impl Serialize for PlaneSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        PlaneSettings::serialize(self, serializer)
    }
}

impl Default for PlaneSettings {
    fn default() -> Self {
        PlaneSettings {
            kind: PlaneKind::default(),
            pin_dir: "/sys/fs/bpf/baton".into(),
            flows: Spanned::new(0..0, 65_536),
            linger_ms: Spanned::new(0..0, 65_000),
            idle_ms: None,
            tun: Spanned::new(0..0, "baton0".into()),
        }
    }
}

impl PlaneSettings {
    /// The most `flows` may be: 4 Mi records are about a gigabyte.
    pub const MAX_FLOWS: u32 = 1 << 22;

    /// [`PlaneSettings::idle_ms`] or its default, an hour.
    pub fn idle_ms(&self) -> u64 {
        self.idle_ms.as_ref().map_or(3_600_000, |idle| *idle.get_ref())
    }

    /// Reports values out of their bounds.
    pub fn validate(&self, role: Role, problems: &mut Problems<'_>) {
        let flows = *self.flows.get_ref();
        problems.require(
            &self.flows,
            (1..=Self::MAX_FLOWS).contains(&flows),
            format!("flows must be between 1 and {}, is {flows}", Self::MAX_FLOWS),
        );
        let linger = *self.linger_ms.get_ref();
        problems.require(
            &self.linger_ms,
            linger <= 3_600_000,
            format!("linger_ms must be at most 3600000 (an hour), is {linger}"),
        );
        if let Some(idle) = &self.idle_ms {
            let is = *idle.get_ref();
            problems.require(idle, is >= 1000, format!("idle_ms must be at least 1000, is {is}"));
            problems.require(idle, role == Role::Agent, "idle_ms is a setting of the agent");
        }
        check_device(&self.tun, "tun", problems);
    }
}

/// Reports a name no network device can have (`dev_valid_name` in net/core/dev.c).
pub fn check_device(name: &Spanned<String>, key: &str, problems: &mut Problems<'_>) {
    let is = name.get_ref();
    let bad = is.is_empty()
        || is.len() > 15
        || is == "."
        || is == ".."
        || is.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    problems.require(
        name,
        !bad,
        format!("{key} must be a device name of 1 to 15 bytes without '/', ':' and spaces, is {is:?}"),
    );
}

/// `[admin]`: where the admin endpoint listens. Without keys it listens nowhere.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSettings {
    /// A Unix socket. Its mode is 0660 and who can open it may do all, unless `view`, `operate` or `admin` is there.
    pub unix: Option<Spanned<PathBuf>>,
    /// A TCP port on a loopback address.
    pub tcp: Option<Spanned<SocketAddr>>,
    /// What may be done by way of `tcp`, by everyone on this host: `view` if it is not given.
    pub tcp_level: Level,
    /// Who may read, by way of `unix`: users (`uids`) and groups (`gids`) by number. With this key or one of the next
    /// two the socket's mode is 0666, and besides root and the daemon's own user only those named may do anything.
    pub view: Option<Who>,
    /// Who may drain, take back, probe and capture packets as well.
    pub operate: Option<Who>,
    /// Who may do all: read the configuration and reload it too.
    pub admin: Option<Who>,
}

impl AdminSettings {
    /// The rules for the Unix socket of a daemon that runs as this user.
    pub fn access(&self, own_uid: u32) -> Access {
        Access { own_uid, view: self.view.clone(), operate: self.operate.clone(), admin: self.admin.clone() }
    }

    /// Reports an address that is not loopback, and a path that is too long for a socket.
    pub fn validate(&self, problems: &mut Problems<'_>) {
        if let Some(tcp) = &self.tcp {
            problems.require(
                tcp,
                tcp.get_ref().ip().is_loopback(),
                format!("admin.tcp must be a loopback address (127.0.0.1 or [::1]), is {}", tcp.get_ref()),
            );
        }
        if let Some(unix) = &self.unix {
            // sun_path in unix(7) has 108 bytes with its end.
            let length = unix.get_ref().as_os_str().len();
            problems.require(
                unix,
                (1..108).contains(&length),
                format!("admin.unix must be 1 to 107 bytes long, is {length}"),
            );
        }
    }
}
