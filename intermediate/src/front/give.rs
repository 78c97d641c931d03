//! Giving a connection to a target; if that one does not take it and the request surely has not run, to another.

use super::Front;
use crate::access_log::{Asked, Placed};
use crate::handoff::{Candidate, Migrator, NotMigrated, Outcome, TrackedCandidate, syn_tsval};
use crate::pools::Pool;
use crate::proxy::{Entry, Peer};
use crate::socket::Socket;
use crate::targets::{TargetId, UnderWay};
use crate::trace::Trace;
use baton_shared::health::Signal;
use baton_shared::reason::Refusal;
use std::sync::Arc;
use std::time::Instant;

/// How many further targets are tried before the request is proxied.
const RETRIES: usize = 2;

/// What is given away, and to whom.
pub(super) struct Gift<'a> {
    pub(super) migrator: &'a Arc<Migrator>,
    /// Whose it is.
    pub(super) peer: Peer,
    /// When it was accepted.
    pub(super) at: Instant,
    /// The pool's choice.
    pub(super) first: TargetId,
    /// What the server shall read first.
    pub(super) request: Vec<u8>,
    /// [`Candidate::announced`].
    pub(super) announced: u64,
    /// If later requests are to be read.
    pub(super) tracked: Option<TrackedCandidate>,
    /// The bytes as they came, if they are others.
    pub(super) original: Option<Vec<u8>>,
    /// For the records.
    pub(super) label: String,
    /// If its spans are wanted.
    pub(super) trace: Option<Trace>,
    /// For the access log, if there is one.
    pub(super) noted: Option<Box<(Asked, Placed)>>,
}

impl Front {
    /// `None` if nothing is left to do; else what the proxy needs. `another` chooses a further target by the bytes as
    /// they came, none of those tried. `pool` is the one whose targets may have it.
    pub(super) async fn give(
        &self,
        mut stream: Socket,
        gift: &mut Gift<'_>,
        pool: &Pool,
        another: impl Fn(&Peer, &[u8], &[TargetId]) -> Option<TargetId>,
    ) -> Option<(Socket, Vec<u8>, Entry)> {
        // Once: the second time the kernel does not tell it.
        let syn_tsval = syn_tsval(&stream);
        // Those that did not take it.
        let mut tried = Vec::new();
        let mut target = gift.first;
        loop {
            let candidate = Candidate {
                stream,
                client: gift.peer.client,
                vip: gift.peer.vip,
                target,
                request: std::mem::take(&mut gift.request),
                announced: gift.announced,
                tracked: gift.tracked,
                request_line: std::mem::take(&mut gift.label),
                syn_tsval,
                trace: gift.trace,
                noted: gift.noted.take(),
                accepted_at: gift.at,
                started: gift.peer.started,
                head_at: Instant::now(),
            };
            let under_way = self.targets.get(target).map(|target| UnderWay::at(&target));
            // Boxed apart: two small rooms are found quicker than a large one.
            let outcome = Box::pin(gift.migrator.migrate(candidate)).await;
            drop(under_way);
            let kept = match outcome {
                Outcome::Migrated(times) => {
                    pool.report(target, Signal::Served);
                    self.metrics.on_migrated(&times);
                    return None;
                }
                Outcome::Closed(reason) => {
                    self.metrics.on_closed(reason);
                    return None;
                }
                Outcome::NotMigrated(kept) => *kept,
            };
            let (extra, mut request, reason, refusal, subject);
            NotMigrated { stream, extra, request, reason, refusal, subject, noted: gift.noted } = kept;
            let blamed = refusal.is_some_and(Refusal::blames_server);
            if blamed {
                pool.report(target, Signal::Failed);
            }
            // Whoever gets the request gets all that is known of it by now.
            request.extend_from_slice(&extra);
            if let Some(original) = &mut gift.original {
                original.extend_from_slice(&extra);
            }
            tried.push(target);
            let may = tried.len() <= RETRIES && reason.another_may_take(refusal);
            let next = may
                .then(|| another(&gift.peer, gift.original.as_ref().unwrap_or(&request), &tried))
                .flatten();
            let Some(next) = next else {
                self.migration.history().record_proxied(subject, reason, refusal);
                let bytes = gift.original.take().unwrap_or(request);
                // A server that took no connection from its own host takes none from here.
                let target = Some(target).filter(|_| !blamed);
                return Some((stream, bytes, Entry { reason, refusal, target, recorded: true }));
            };
            tracing::debug!(client = %gift.peer.client, request = subject.request, reason = reason.name(), "another target is tried");
            self.metrics.on_retried(reason, refusal);
            self.migration.history().tell_retried(&subject, reason, refusal);
            (gift.request, gift.label) = (request, subject.request);
            target = next;
        }
    }
}
