//! Who may do what at the admin endpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What somebody may do; each level has all of those before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Read.
    #[default]
    View,
    /// And drain, take back, probe, capture packets.
    Operate,
    /// And read the configuration, and reload it.
    Admin,
}

impl Level {
    /// Its name in the configuration and in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Level::View => "view",
            Level::Operate => "operate",
            Level::Admin => "admin",
        }
    }
}

/// Users and groups, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Who {
    /// Users.
    pub uids: Vec<u32>,
    /// Groups; a user's supplementary ones count too.
    pub gids: Vec<u32>,
}

impl Who {
    fn has(&self, peer: &Peer) -> bool {
        self.uids.contains(&peer.uid) || peer.gids.iter().any(|gid| self.gids.contains(gid))
    }
}

/// The process at the other end of a Unix socket, as the kernel knows it (`SO_PEERCRED`, `SO_PEERGROUPS`; unix(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group and its supplementary ones.
    pub gids: Vec<u32>,
}

/// The rules for a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The daemon's own user, who may do all, as root may.
    pub own_uid: u32,
    /// `admin.view`.
    pub view: Option<Who>,
    /// `admin.operate`.
    pub operate: Option<Who>,
    /// `admin.admin`.
    pub admin: Option<Who>,
}

impl Access {
    /// Whether nobody is named: then the socket's file mode alone decides, and who can open it may do all.
    pub const fn is_open(&self) -> bool {
        self.view.is_none() && self.operate.is_none() && self.admin.is_none()
    }

    /// What a peer may do; `None`: nothing.
    pub fn level(&self, peer: &Peer) -> Option<Level> {
        if self.is_open() || peer.uid == 0 || peer.uid == self.own_uid {
            return Some(Level::Admin);
        }
        [(&self.admin, Level::Admin), (&self.operate, Level::Operate), (&self.view, Level::View)]
            .into_iter()
            .find(|(who, _)| who.as_ref().is_some_and(|who| who.has(peer)))
            .map(|(_, level)| level)
    }
}

/// What an answer shows of a query string in place of its values.
const HIDDEN: &str = "…";

/// A request line (`GET /path?query`) fit for who may only look: values in the query may be secrets, and are hidden.
pub fn without_query_values(request: &str) -> String {
    match request.split_once('?') {
        Some((path, _)) => format!("{path}?{HIDDEN}"),
        None => request.to_owned(),
    }
}

/// Whether the value under a key of the configuration, or of a header, is a secret.
pub fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 6] = ["secret", "password", "passwd", "token", "authorization", "cookie"];
    const WHOLE: [&str; 3] = ["key", "x-api-key", "api-key"];
    let name = name.to_ascii_lowercase();
    WHOLE.contains(&name.as_str()) || PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gids: &[u32]) -> Peer {
        Peer { uid, gids: gids.to_vec() }
    }

    fn who(uids: &[u32], gids: &[u32]) -> Option<Who> {
        Some(Who { uids: uids.to_vec(), gids: gids.to_vec() })
    }

    #[test]
    fn without_rules_who_can_open_the_socket_may_do_all() {
        assert_eq!(Access::default().level(&peer(1000, &[])), Some(Level::Admin));
    }

    #[test]
    fn with_rules_a_peer_has_the_highest_level_that_names_it_and_strangers_have_none() {
        let access = Access {
            own_uid: 990,
            view: who(&[1000, 1001], &[50]),
            operate: who(&[1001], &[60]),
            admin: who(&[], &[70]),
        };
        let table = [
            (peer(0, &[]), Some(Level::Admin)),
            (peer(990, &[]), Some(Level::Admin)),
            (peer(1000, &[1000]), Some(Level::View)),
            (peer(1001, &[1000]), Some(Level::Operate)),
            (peer(1002, &[1, 50]), Some(Level::View)),
            (peer(1002, &[50, 60]), Some(Level::Operate)),
            (peer(1002, &[50, 60, 70]), Some(Level::Admin)),
            (peer(1002, &[1002]), None),
        ];
        for (peer, level) in table {
            assert_eq!(access.level(&peer), level, "{peer:?}");
        }
        let nobody = Access { view: who(&[], &[]), ..Access::default() };
        assert_eq!(nobody.level(&peer(5, &[5])), None, "an empty list names nobody");
    }

    #[test]
    fn levels_contain_each_other_in_order() {
        assert!(Level::View < Level::Operate && Level::Operate < Level::Admin);
    }

    #[test]
    fn values_in_queries_and_under_secret_names_are_hidden() {
        assert_eq!(without_query_values("GET /a?token=1&b=2"), "GET /a?…");
        assert_eq!(without_query_values("GET /a"), "GET /a");
        for name in
            ["Authorization", "Proxy-Authorization", "Set-Cookie", "client_secret", "key", "X-Api-Key"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["server", "vip", "Host", "keepalive"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
