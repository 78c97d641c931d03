//! Requests of probes along the real path.

use super::{Accepted, Front};
use crate::handoff::Migrator;
use crate::proxy::Peer;
use crate::targets::TargetId;
use baton_shared::balance::{ProbedFacts, judge_probed};
use baton_shared::http::{Edits, HeadStatus, RequestHead, canonical, parse};
use baton_shared::probe::PROBE_HEADER;
use baton_shared::reason::ProxyReason;
use baton_shared::route::HeadLines;
use std::sync::Arc;

impl Front {
    /// If the request is a pending probe's: the target it goes to, and the request without the header by which it was
    /// known. Whoever brings another token brings a header like any other.
    pub(super) fn take_probe(
        &self,
        accepted: &Accepted,
        bytes: Vec<u8>,
        head: RequestHead,
    ) -> (Vec<u8>, RequestHead, Option<TargetId>) {
        let probes = self.migration.migrator().map(|migrator| migrator.probes());
        let Some(probes) = probes.filter(|probes| !probes.is_empty()) else { return (bytes, head, None) };
        let ours = |name: &[u8]| name.eq_ignore_ascii_case(PROBE_HEADER.as_bytes());
        let token = HeadLines::new(&bytes, &head).iter().find(|(name, _)| ours(name)).map(|(_, value)| value);
        let claimed = token.and_then(|token| probes.claim(token, accepted.client.ip()));
        let Some((target, record)) = claimed else { return (bytes, head, None) };
        let edits = Edits { remove: vec![PROBE_HEADER.to_owned()], append: Vec::new() };
        let mut without = canonical(&bytes, &head, &edits, true);
        without.extend_from_slice(bytes.get(head.head_len..).unwrap_or_default());
        match parse(&without, &accepted.limits().head) {
            HeadStatus::Complete(head) => {
                self.migration.history().await_record(accepted.client, record);
                (without, head, Some(target))
            }
            // Not the gate's word on what it let pass before.
            _ => (bytes, head, None),
        }
    }

    /// As [`Front::choose`], for a probe: neither health nor drain nor balance are asked.
    pub(super) fn choose_probed(
        &self,
        target: TargetId,
        peer: &Peer,
    ) -> Result<(&Arc<Migrator>, TargetId), ProxyReason> {
        let migrator = self.migratable(true, peer)?;
        let facts = self.targets.get(target).map(|target| ProbedFacts {
            takes_handoffs: target.takes_handoffs(),
            serves_family: target.spec.servers.for_vip(peer.vip).is_some(),
        });
        judge_probed(facts)?;
        Ok((migrator, target))
    }
}
