//! Certificates, and the peer behind an address.

use super::{Check, Status};
use crate::control::{self, ClientSpec};
use crate::tls::{Identity, Moment, TlsFiles};
use baton_shared::control::Role;
use time::{Duration, OffsetDateTime};

/// Certificates that end sooner are warned of.
const SOON: Duration = Duration::days(14);

const MEND: &str =
    "make new ones with the subcommand `certs --dir DIR --intermediate NAME=IP --agent NAME=IP`";

/// This node's certificate, key and authority.
pub fn certificates(tls: &TlsFiles, role: Role, name: &str) -> Vec<Check> {
    let why = "both sides prove their role and name to each other by certificate";
    let identity = match tls.load() {
        Ok(identity) => identity,
        Err(e) => return vec![Check::new("certificates", Status::Fail, e.to_string(), why, MEND)],
    };
    vec![
        Check::of("certificate name", name_of(&identity, role, name), why, MEND),
        validity(&identity),
        Check::of(
            "certificate chain",
            identity.verify_own_chain().map(|()| format!("signed by {}", tls.ca.get_ref().display())),
            "peers refuse a certificate that their CA has not signed",
            MEND,
        ),
    ]
}

fn name_of(identity: &Identity, role: Role, name: &str) -> Result<String, String> {
    let facts = &identity.facts;
    let found = format!("{} {:?}", facts.role.name(), facts.name);
    if facts.role == role && facts.name == name {
        Ok(found)
    } else {
        Err(format!("made for {found}, this node is {} {name:?}", role.name()))
    }
}

fn validity(identity: &Identity) -> Check {
    let now = OffsetDateTime::now_utc();
    let facts = &identity.facts;
    let (status, found) = match facts.validity_problem(now) {
        Some(problem) => (Status::Fail, problem),
        None if facts.not_after - now < SOON => {
            (Status::Warn, format!("expires soon: {}", Moment(facts.not_after)))
        }
        None => (Status::Ok, format!("valid until {}", Moment(facts.not_after))),
    };
    Check::new(
        "certificate time",
        status,
        found,
        "the channel does not come up with an expired certificate",
        MEND,
    )
}

/// Connects to an agent with mutual TLS and exchanges `Hello`. The agent does not count it as a session.
pub async fn peer(spec: ClientSpec<'_>) -> Check {
    let name = format!("agent {}", spec.expect.1);
    let addr = spec.addr;
    let result = match control::probe(spec).await {
        Ok(Ok(hello)) => Ok(format!("{addr} answers as {:?}, {}", hello.name, hello.software)),
        Ok(Err(fault)) => Err(format!("{addr}: {fault}")),
        Err(e) => Err(e.to_string()),
    };
    let why = "without its agent a target's requests are proxied instead of migrated";
    let mend = "start the agent there; open the port; name this intermediate in its [[allow]]; use certificates of one CA";
    Check::of(&name, result, why, mend)
}
