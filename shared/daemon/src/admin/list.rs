//! Long lists as answers: written while they are read, so that nobody holds a lock or a whole list for a slow reader.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;

/// Elements if the request names no limit.
pub const LIMIT: usize = 1000;
/// The most that can be asked for.
pub const LIMIT_MOST: usize = 100_000;

/// How many elements a request is given; or the answer to one that wants too many.
pub fn limit(asked: Option<usize>) -> Result<usize, Box<Response>> {
    match asked.unwrap_or(LIMIT) {
        limit if limit <= LIMIT_MOST => Ok(limit),
        limit => {
            let text = format!("limit must be at most {LIMIT_MOST}, is {limit}");
            Err(Box::new((StatusCode::BAD_REQUEST, Json(json!({ "error": text }))).into_response()))
        }
    }
}

/// `{"NAME": [...], "truncated": BOOL}` with at most `limit` elements of `chunks`, each of which is made when the one
/// before was written. `truncated`: there are more.
pub fn stream<T, C>(name: &'static str, limit: usize, chunks: C) -> Response
where
    T: Serialize,
    C: Iterator<Item = Vec<T>> + Send + 'static,
{
    let mut text = Text { left: limit, any: false, truncated: false };
    let mut chunks = chunks;
    let mut ended = false;
    let begin = std::iter::once(format!("{{\"{name}\":["));
    let rest = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        match chunks.next() {
            Some(chunk) if !text.truncated => Some(text.chunk(&chunk)),
            _ => {
                ended = true;
                Some(format!("],\"truncated\":{}}}", text.truncated))
            }
        }
    });
    let parts = begin.chain(rest).filter(|part| !part.is_empty());
    let body = Body::from_stream(stream::iter(parts.map(|part| Ok::<_, Infallible>(Bytes::from(part)))));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

struct Text {
    left: usize,
    any: bool,
    truncated: bool,
}

impl Text {
    fn chunk<T: Serialize>(&mut self, chunk: &[T]) -> String {
        let mut out = String::new();
        for element in chunk {
            if self.left == 0 {
                self.truncated = true;
                break;
            }
            // Views have no maps with keys that are no text: that cannot fail.
            let Ok(json) = serde_json::to_string(element) else { continue };
            self.left -= 1;
            if self.any {
                out.push(',');
            }
            self.any = true;
            out.push_str(&json);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    async fn read(limit: usize, chunks: Vec<Vec<u32>>) -> Value {
        let body = stream("n", limit, chunks.into_iter()).into_body();
        let bytes = axum::body::to_bytes(body, 10_000).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_list_is_whole_json_and_says_whether_there_is_more() {
        assert_eq!(read(5, vec![]).await, json!({ "n": [], "truncated": false }));
        let three = || vec![vec![1], vec![], vec![2, 3]];
        assert_eq!(read(5, three()).await, json!({ "n": [1, 2, 3], "truncated": false }));
        assert_eq!(read(3, three()).await, json!({ "n": [1, 2, 3], "truncated": false }));
        assert_eq!(read(2, three()).await, json!({ "n": [1, 2], "truncated": true }));
        assert_eq!(read(0, three()).await, json!({ "n": [], "truncated": true }));
    }

    #[tokio::test]
    async fn nothing_is_made_that_nobody_reads() {
        let chunks = std::iter::repeat_with(|| vec![7u32]);
        let bytes = axum::body::to_bytes(stream("n", 2, chunks).into_body(), 10_000).await.unwrap();
        assert_eq!(bytes.as_ref(), br#"{"n":[7,7],"truncated":true}"#);
    }

    #[test]
    fn a_limit_has_a_limit() {
        assert_eq!(limit(None).unwrap(), LIMIT);
        assert_eq!(limit(Some(LIMIT_MOST)).unwrap(), LIMIT_MOST);
        assert_eq!(limit(Some(LIMIT_MOST + 1)).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
}
