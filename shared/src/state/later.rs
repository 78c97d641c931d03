//! What a client sends behind the end of the request under way on a tracked flow: put into order, read through the
//! same gate as a first request, and told apart into requests. Where the end of the request under way is not known
//! beforehand its body is followed to it; content of known length passes unseen.
//!
//! Nothing here is passed on before it was judged. Numbers are the client's.

use crate::http::{
    BodyScanner, Framing, GateRule, HeadLimits, HeadScanner, HeadStatus, RequestHead, Verdict,
};
use crate::seq::{Client, Seq};

/// A body longer than this, bytes, is not followed: numbers further apart cannot be compared.
pub const BODY_BYTES: u64 = 1 << 30;

/// What there is to do about the bytes in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Later {
    /// Nothing has come.
    Nothing,
    /// Bytes in front belonged to the body under way: [`LaterRequests::end`] is further on.
    Body,
    /// The body under way cannot be read on.
    BadBody(GateRule),
    /// A head that is not complete.
    Partial,
    /// The client has closed its direction, just behind the last request.
    Fin,
    /// It has closed in the middle of a head.
    CutShort,
    /// A head that passes the gate, at the front of [`LaterRequests::bytes`].
    Request(RequestHead),
    /// No request may follow.
    Bad(Verdict),
}

/// Why a segment was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// All of it lies before the end of the request under way.
    Old,
    /// It lies further ahead than is kept.
    TooFar,
}

/// A request as it is given to another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What of it has come: the head, and the body's start.
    pub bytes: Vec<u8>,
    /// The number behind those bytes.
    pub taken_end: Seq<Client>,
    /// Nothing follows it but the client's FIN, which has come and is to be given along.
    pub fin: bool,
}

/// What one client has sent behind the request under way.
#[derive(Clone, Debug)]
pub struct LaterRequests {
    /// The end of the request under way, where what is kept begins.
    end: Seq<Client>,
    /// Bytes kept at most, from `end` on.
    most: u32,
    /// Apart: most clients have sent nothing most of the time.
    kept: Option<Box<Kept>>,
}

/// What has come, or is under way, from the end on.
#[derive(Clone, Debug)]
struct Kept {
    /// Without a gap.
    bytes: Vec<u8>,
    /// What has come beyond a gap, as offset from the end and bytes, in order of the offset.
    islands: Vec<(u32, Vec<u8>)>,
    /// The offset of the client's FIN.
    fin: Option<u32>,
    /// The client was told that its bytes before this arrived.
    acknowledged: Seq<Client>,
    scanner: HeadScanner,
    /// The rest of the body under way, from the end on.
    body: BodyScanner,
}

/// How many gaps are kept apart; more make a stranger of the client.
const ISLANDS: usize = 64;

impl LaterRequests {
    /// Behind a request that ends at `end`. At most `most` bytes are kept.
    pub fn new(end: Seq<Client>, most: u32) -> Self {
        LaterRequests { end, most, kept: None }
    }

    /// The same within a body: `end` is only where its next byte must be read.
    pub fn within(mut self, body: BodyScanner) -> Self {
        self.keep().body = body;
        self.settle();
        self
    }

    fn keep(&mut self) -> &mut Kept {
        let end = self.end;
        self.kept.get_or_insert_with(|| Box::new(Kept::nothing(end)))
    }

    /// Nothing is kept of what is over.
    fn settle(&mut self) {
        self.kept.take_if(|kept| kept.is_over(self.end));
    }

    /// Whether the request under way goes on at `end`.
    pub fn is_within_body(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| !kept.body.is_done())
    }

    /// Whole requests have gone on unread, up to this number: it is the end from here on, and what is kept of them is not any
    /// more. False, and without effect, if it is no news, or the body under way must be read.
    pub fn pass_unread(&mut self, end: Seq<Client>) -> bool {
        let news = self.end.before(end) && !self.is_within_body();
        if news {
            self.forget(end.since(self.end));
        }
        news
    }

    /// Whether nothing is kept, and no body is under way that must be read.
    pub fn is_idle(&self) -> bool {
        self.kept.is_none()
    }

    /// The end of the request under way.
    pub fn end(&self) -> Seq<Client> {
        self.end
    }

    /// What has come behind it without a gap.
    pub fn bytes(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], |kept| &kept.bytes)
    }

    /// The number up to which the client was told that its bytes arrived; at least [`LaterRequests::end`].
    pub fn acknowledged(&self) -> Seq<Client> {
        let told = self.kept.as_ref().map(|kept| kept.acknowledged);
        told.filter(|told| self.end.before(*told)).unwrap_or(self.end)
    }

    /// Whether the client was told of bytes in front that no server has: nobody but us can deliver them.
    pub fn owes(&self) -> bool {
        self.end.before(self.acknowledged())
    }

    /// The number of the client's FIN, if it was told that this arrived behind all that has come, and no server has it.
    pub fn owed_fin(&self) -> Option<Seq<Client>> {
        let kept = self.kept.as_ref()?;
        let fin = self.end.plus(kept.fin.filter(|fin| *fin == length(&kept.bytes))?);
        fin.before(kept.acknowledged).then_some(fin)
    }

    /// The client's bytes from `end` on (and its FIN behind them) that this kernel acknowledged before the flow was
    /// given away.
    pub fn on_acknowledged(&mut self, bytes: &[u8], fin: bool) {
        let _ = self.on_segment(self.end.plus(length(self.bytes())), bytes, fin);
        let told = self.end.plus(length(self.bytes()).wrapping_add(u32::from(fin)));
        if self.end.before(told) {
            self.keep().acknowledged = told;
        }
    }

    /// A segment that reaches beyond `end`.
    pub fn on_segment(&mut self, seq: Seq<Client>, payload: &[u8], fin: bool) -> Result<(), NotKept> {
        let size = length(payload);
        let behind = seq.plus(size);
        // What lies before the end is another's business.
        let (offset, payload) = if seq.before(self.end) {
            if behind.before(self.end) || (behind == self.end && !fin) {
                return Err(NotKept::Old);
            }
            let old = usize::try_from(self.end.since(seq)).unwrap_or(usize::MAX);
            (0, payload.get(old..).unwrap_or_default())
        } else {
            (seq.since(self.end), payload)
        };
        let Some(last) = offset.checked_add(length(payload)).filter(|last| *last <= self.most) else {
            return Err(NotKept::TooFar);
        };
        if payload.is_empty() && !fin {
            return Ok(());
        }
        let kept = self.keep();
        if fin && kept.fin.is_none() {
            kept.fin = Some(last);
        }
        let done = kept.take(offset, payload);
        self.settle();
        done
    }

    /// Where what has come without a gap breaks off, if more has come beyond it.
    pub fn gap(&self) -> Option<Seq<Client>> {
        let kept = self.kept.as_ref()?;
        let have = length(&kept.bytes);
        let beyond = !kept.islands.is_empty() || kept.fin.is_some_and(|fin| fin > have);
        beyond.then(|| self.end.plus(have))
    }

    /// What came beyond a gap counts as not having come; where the gap began. The client was told of none of it.
    pub fn forget_beyond_gap(&mut self) -> Option<Seq<Client>> {
        let gap = self.gap()?;
        if let Some(kept) = &mut self.kept {
            let have = length(&kept.bytes);
            kept.islands.clear();
            kept.fin = kept.fin.filter(|fin| *fin <= have);
        }
        self.settle();
        Some(gap)
    }

    /// What there is to do about the bytes in front.
    pub fn next(&mut self, limits: &HeadLimits) -> Later {
        let Some(kept) = &mut self.kept else { return Later::Nothing };
        let fin_here = kept.fin == Some(length(&kept.bytes));
        if kept.bytes.is_empty() {
            return if fin_here { Later::Fin } else { Later::Nothing };
        }
        if !kept.body.is_done() {
            return match kept.advance_body() {
                Ok(size) => {
                    self.forget(size);
                    Later::Body
                }
                Err(rule) => Later::BadBody(rule),
            };
        }
        match kept.scanner.status(&kept.bytes, limits) {
            HeadStatus::Complete(head) => Later::Request(head),
            HeadStatus::Bad(verdict) => Later::Bad(verdict),
            HeadStatus::Incomplete if fin_here => Later::CutShort,
            HeadStatus::Incomplete => Later::Partial,
        }
    }

    /// The request in front goes on to the server that has the flow: where it ends, the new end. `head` is what
    /// [`LaterRequests::next`] gave. `None` if its end is not known, or too far away to follow.
    pub fn pass(&mut self, head: &RequestHead) -> Option<Seq<Client>> {
        let size = u32::try_from(request_length(head)?).ok()?;
        self.forget(size);
        Some(self.end)
    }

    /// The client's FIN in front goes on to the server: the new end.
    pub fn pass_fin(&mut self) -> Seq<Client> {
        if let Some(kept) = &mut self.kept {
            kept.fin = None;
        }
        self.forget(1);
        self.end
    }

    /// The request in front is given to another server: its bytes as far as they have come, without an empty line in
    /// front. `None` as with [`LaterRequests::pass`].
    pub fn take(&mut self, head: &RequestHead) -> Option<Taken> {
        let size = u32::try_from(request_length(head)?).ok()?;
        let here = size.min(length(self.bytes()));
        let upto = usize::try_from(here).unwrap_or(usize::MAX);
        let bytes = self.bytes().get(head.start..upto).unwrap_or_default().to_vec();
        let fin = self.kept.as_ref().is_some_and(|kept| kept.fin == Some(here));
        let mut taken_end = self.end.plus(here);
        self.forget(size);
        if fin && here == size {
            taken_end = self.pass_fin();
            return Some(Taken { bytes, taken_end, fin: true });
        }
        Some(Taken { bytes, taken_end, fin: false })
    }

    fn forget(&mut self, size: u32) {
        self.end = self.end.plus(size);
        if let Some(kept) = &mut self.kept {
            kept.forget(size);
        }
        self.settle();
    }
}

impl Kept {
    /// As it is where nothing has come behind `end`.
    fn nothing(end: Seq<Client>) -> Self {
        Kept {
            bytes: Vec::new(),
            islands: Vec::new(),
            fin: None,
            acknowledged: end,
            scanner: HeadScanner::new(),
            body: BodyScanner::new(Framing::None),
        }
    }

    fn is_over(&self, end: Seq<Client>) -> bool {
        let empty = self.bytes.is_empty() && self.islands.is_empty() && self.fin.is_none();
        empty && self.body.is_done() && !end.before(self.acknowledged)
    }

    fn take(&mut self, offset: u32, payload: &[u8]) -> Result<(), NotKept> {
        if offset <= length(&self.bytes) {
            self.append(offset, payload);
            self.join();
        } else if !payload.is_empty() {
            if self.islands.len() >= ISLANDS {
                return Err(NotKept::TooFar);
            }
            let at = self.islands.partition_point(|(other, _)| *other < offset);
            self.islands.insert(at, (offset, payload.to_vec()));
        }
        Ok(())
    }

    /// Islands that a gap divides from the rest no more.
    fn join(&mut self) {
        while self.islands.first().is_some_and(|(offset, _)| *offset <= length(&self.bytes)) {
            let (offset, payload) = self.islands.remove(0);
            self.append(offset, &payload);
        }
    }

    /// The first bytes to come count (RFC 9293, section 3.10.7.4): those that repeat a number are passed over.
    fn append(&mut self, offset: u32, payload: &[u8]) {
        let seen = usize::try_from(length(&self.bytes).saturating_sub(offset)).unwrap_or(usize::MAX);
        self.bytes.extend_from_slice(payload.get(seen..).unwrap_or_default());
    }

    /// How many numbers in front belong to the body under way.
    fn advance_body(&mut self) -> Result<u32, GateRule> {
        let taken = u32::try_from(self.body.advance(&self.bytes)?).unwrap_or(u32::MAX);
        Ok(taken.saturating_add(pass_content(&mut self.body)))
    }

    fn forget(&mut self, size: u32) {
        let gone = usize::try_from(size).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.drain(..gone);
        self.scanner = HeadScanner::new();
        self.fin = self.fin.and_then(|fin| fin.checked_sub(size));
        // A body that has not come whole leaves its gaps behind.
        self.islands.retain_mut(|(offset, payload)| {
            let into = usize::try_from(size.saturating_sub(*offset)).unwrap_or(usize::MAX).min(payload.len());
            payload.drain(..into);
            *offset = offset.saturating_sub(size);
            !payload.is_empty()
        });
        self.join();
    }
}

/// Passes over the content in front that need not be read; how many bytes.
pub fn pass_content(body: &mut BodyScanner) -> u32 {
    let step = body.skippable().min(BODY_BYTES);
    body.skip(step);
    u32::try_from(step).unwrap_or(0)
}

/// Bytes of a whole request; `None` if its end is not known, or too far away to follow.
pub fn request_length(head: &RequestHead) -> Option<u64> {
    u64::try_from(head.head_len).ok()?.checked_add(body_length(head)?)
}

/// Whether what comes behind a request can be told from it, and is a request: a body whose end is not known, and whatever may become
/// another protocol, is not followed.
pub fn is_followed(head: &RequestHead) -> bool {
    request_length(head).is_some() && head.migration().is_ok()
}

/// Bytes of a request's body, with the same limits.
pub fn body_length(head: &RequestHead) -> Option<u64> {
    match head.framing {
        Framing::None => Some(0),
        Framing::Length(length) if length <= BODY_BYTES => Some(length),
        Framing::Length(_) | Framing::Chunked => None,
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
