//! Certificates, and the peer behind an address.

use super::{Check, Status};
use crate::control::{self, ClientSpec, Fault, FaultKind};
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
    let why = "without its agent a target's requests are proxied instead of migrated";
    let check = |status, found, mend| Check::new(&name, status, found, why, mend);
    match control::probe(spec).await {
        Ok(Ok(hello)) => {
            check(Status::Ok, format!("{addr} answers as {:?}, {}", hello.name, hello.software), "")
        }
        Ok(Err(fault)) => check(Status::Fail, format!("{addr}: {fault}"), mend_of(&fault)),
        Err(e) => check(Status::Fail, e.to_string(), MEND),
    }
}

/// What is to be done about an agent that does not answer as it should.
fn mend_of(fault: &Fault) -> &'static str {
    match fault.kind() {
        FaultKind::Connect | FaultKind::Timeout => {
            "start the agent there (its log says why it ended); open its control port to this host; compare [[target]] agent with where it listens"
        }
        FaultKind::Expired => {
            "make a new certificate for it (`target-agent certs --dir DIR --agent NAME=IP`) and start it again; if it is not valid yet, set the clocks"
        }
        FaultKind::Version => "run the same release on both hosts",
        FaultKind::NotAllowed | FaultKind::ClosedEarly | FaultKind::Handshake => {
            "its log says whom it refuses: name this intermediate in its [[allow]]; look at this node's certificate and its time"
        }
        FaultKind::Untrusted | FaultKind::WrongRole | FaultKind::WrongName => {
            "use certificates of one CA, made for the role and the name: the subcommand `certs --dir DIR --intermediate NAME=IP --agent NAME=IP`"
        }
        FaultKind::Protocol | FaultKind::Silent | FaultKind::Closed => {
            "see what listens there: an agent says hello at once; look at both logs"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_a_channel_has_a_mending_of_its_own() {
        let version = Fault::Version { found: 9, software: String::new() };
        assert!(mend_of(&version).contains("same release"));
        assert!(mend_of(&Fault::Expired(String::new())).contains("certs --dir"));
        assert!(mend_of(&Fault::Timeout("answer")).contains("control port"));
    }
}
