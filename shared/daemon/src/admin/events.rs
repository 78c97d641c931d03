//! What happens, as it happens: `/v1/events`, server-sent events (WHATWG HTML, section 9.2).
//!
//! There is one stream in a process, as there is one log: whoever knows of something tells it by [`publish`], which
//! costs one load while nobody listens. A subscriber that reads too slowly misses events, and is told how many; nobody
//! waits for it.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Events kept for a subscriber that is behind.
const BOUND: usize = 1024;
/// Subscribers at a time.
const SUBSCRIBERS: usize = 16;
/// A comment is sent when so long nothing was.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection was given to a target (intermediate) or taken (agent).
    Handoff,
    /// A connection came back from a target.
    Recall,
    /// An agent did not take, or give back, a connection.
    Refusal,
    /// A request is proxied.
    Proxied,
    /// A connection was closed, or answered by the intermediate.
    Closed,
    /// A migrated connection ended.
    End,
    /// A target or member stands otherwise than before.
    Health,
    /// A control channel came up or went down.
    Channel,
    /// An operator ordered something.
    Order,
    /// The configuration was read again.
    Reload,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Handoff,
        Kind::Recall,
        Kind::Refusal,
        Kind::Proxied,
        Kind::Closed,
        Kind::End,
        Kind::Health,
        Kind::Channel,
        Kind::Order,
        Kind::Reload,
    ];

    /// The event's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Handoff => "handoff",
            Kind::Recall => "recall",
            Kind::Refusal => "refusal",
            Kind::Proxied => "proxied",
            Kind::Closed => "closed",
            Kind::End => "end",
            Kind::Health => "health",
            Kind::Channel => "channel",
            Kind::Order => "order",
            Kind::Reload => "reload",
        }
    }
}

/// One event.
#[derive(Debug)]
struct Event {
    number: u64,
    kind: Kind,
    data: Value,
}

#[derive(Debug)]
struct Hub {
    sender: broadcast::Sender<Arc<Event>>,
    last: AtomicU64,
    missed: AtomicU64,
}

impl Hub {
    fn new(bound: usize) -> Self {
        Hub { sender: broadcast::Sender::new(bound), last: AtomicU64::new(0), missed: AtomicU64::new(0) }
    }

    fn publish(&self, kind: Kind, data: impl FnOnce() -> Value) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        let mut data = data();
        if let Some(object) = data.as_object_mut() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            object.insert("at".to_owned(), json!(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)));
        }
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        // The last subscriber may just have gone.
        let _ = self.sender.send(Arc::new(Event { number, kind, data }));
    }
}

static HUB: LazyLock<Hub> = LazyLock::new(|| Hub::new(BOUND));

/// Tells all who listen. `data` is made only if somebody does; it is an object, and gets the time as `at`.
pub fn publish(kind: Kind, data: impl FnOnce() -> Value) {
    HUB.publish(kind, data);
}

/// Events that subscribers were too slow for, of all of them.
pub fn missed() -> u64 {
    HUB.missed.load(Ordering::Relaxed)
}

/// Who listens now.
pub fn subscribers() -> usize {
    HUB.sender.receiver_count()
}

/// Query of `/v1/events`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Names of kinds with commas between them; all if it is not there.
    kind: Option<String>,
    /// Of one flow.
    flow: Option<String>,
}

struct Filter {
    kinds: Vec<Kind>,
    flow: Option<String>,
}

impl Filter {
    fn new(query: EventQuery) -> Result<Self, String> {
        let kind = |name: &str| {
            let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            found.ok_or_else(|| {
                format!("there is no kind {name:?}, but {}", Kind::ALL.map(Kind::name).join(", "))
            })
        };
        let kinds = match &query.kind {
            Some(names) => names.split(',').map(kind).collect::<Result<_, _>>()?,
            None => Kind::ALL.to_vec(),
        };
        Ok(Filter { kinds, flow: query.flow })
    }

    fn passes(&self, event: &Event) -> bool {
        self.kinds.contains(&event.kind)
            && self.flow.as_ref().is_none_or(|flow| event.data.get("flow").is_some_and(|of| of == flow))
    }
}

/// `GET /v1/events`.
pub async fn events(query: Result<Query<EventQuery>, QueryRejection>) -> Response {
    subscribe(&HUB, query)
}

fn subscribe(hub: &'static Hub, query: Result<Query<EventQuery>, QueryRejection>) -> Response {
    let wrong = |status, text: &str| (status, Json(json!({ "error": text }))).into_response();
    let Ok(Query(query)) = query else {
        return wrong(StatusCode::BAD_REQUEST, "the query may name kind and flow");
    };
    let filter = match Filter::new(query) {
        Ok(filter) => filter,
        Err(text) => return wrong(StatusCode::BAD_REQUEST, &text),
    };
    if hub.sender.receiver_count() >= SUBSCRIBERS {
        return wrong(StatusCode::SERVICE_UNAVAILABLE, "there are as many subscribers as there may be");
    }
    let receiver = hub.sender.subscribe();
    // Something to read at once: who has it will see all that comes.
    let begin = stream::iter([Ok(sse::Event::default().comment("subscribed"))]);
    let rest = stream::unfold((receiver, filter), async move |(mut receiver, filter)| {
        loop {
            let event = match receiver.recv().await {
                Ok(event) if filter.passes(&event) => sse::Event::default()
                    .event(event.kind.name())
                    .id(event.number.to_string())
                    .data(event.data.to_string()),
                Ok(_) => continue,
                Err(RecvError::Lagged(missed)) => {
                    hub.missed.fetch_add(missed, Ordering::Relaxed);
                    sse::Event::default().event("lagged").data(json!({ "missed": missed }).to_string())
                }
                Err(RecvError::Closed) => return None,
            };
            return Some((Ok::<_, Infallible>(event), (receiver, filter)));
        }
    });
    let stream = futures_util::StreamExt::chain(begin, rest);
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::BodyDataStream;
    use futures_util::StreamExt;

    fn hub(bound: usize) -> &'static Hub {
        Box::leak(Box::new(Hub::new(bound)))
    }

    fn listen(hub: &'static Hub, query: EventQuery) -> BodyDataStream {
        let response = subscribe(hub, Ok(Query(query)));
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().into_data_stream()
    }

    async fn next(stream: &mut BodyDataStream) -> String {
        String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_subscriber_gets_what_it_asked_for_and_nothing_is_made_for_nobody() {
        let hub = hub(8);
        hub.publish(Kind::End, || panic!("nobody listens"));
        let query = EventQuery { kind: Some("end,health".into()), flow: None };
        let mut all = listen(hub, EventQuery::default());
        let mut some = listen(hub, query);
        let mut one = listen(hub, EventQuery { kind: None, flow: Some("0a".into()) });
        for stream in [&mut all, &mut some, &mut one] {
            assert_eq!(next(stream).await, ": subscribed\n\n");
        }
        hub.publish(Kind::Handoff, || json!({ "flow": "0a" }));
        hub.publish(Kind::End, || json!({ "flow": "0b" }));
        let first = next(&mut all).await;
        assert!(first.starts_with("event: handoff\nid: 1\ndata: {") && first.contains("\"at\":"), "{first}");
        assert!(next(&mut all).await.contains("event: end\n"));
        assert!(next(&mut some).await.contains("event: end\nid: 2\n"));
        assert!(next(&mut one).await.contains("\"flow\":\"0a\""));
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_how_much_it_missed_and_holds_nobody_up() {
        let hub = hub(4);
        let mut slow = listen(hub, EventQuery::default());
        for n in 0..10 {
            hub.publish(Kind::Reload, || json!({ "n": n }));
        }
        assert_eq!(next(&mut slow).await, ": subscribed\n\n");
        assert!(next(&mut slow).await.contains("event: lagged\ndata: {\"missed\":6}"));
        assert!(next(&mut slow).await.contains("\"n\":6"));
        assert_eq!(hub.missed.load(Ordering::Relaxed), 6);
    }

    #[tokio::test]
    async fn subscribers_have_a_bound_and_queries_are_checked() {
        let hub = hub(4);
        let streams: Vec<_> = (0..SUBSCRIBERS).map(|_| listen(hub, EventQuery::default())).collect();
        let ask = |query| subscribe(hub, Ok(Query(query))).status();
        assert_eq!(ask(EventQuery::default()), StatusCode::SERVICE_UNAVAILABLE);
        drop(streams);
        assert_eq!(ask(EventQuery::default()), StatusCode::OK);
        let wrong = EventQuery { kind: Some("end,colour".into()), flow: None };
        assert_eq!(ask(wrong), StatusCode::BAD_REQUEST);
    }
}
