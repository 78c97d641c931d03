//! The configuration in force, every default written out, without its secrets.

use super::{Admin, error};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_shared::access::is_secret;
use serde_json::Value;
use std::sync::Arc;

/// In a secret's place.
const REDACTED: &str = "(redacted)";

/// `GET /v1/config`.
pub(super) async fn config(State(admin): State<Arc<Admin>>) -> Response {
    let Some(reload) = &admin.reload else {
        return error(StatusCode::NOT_IMPLEMENTED, "this process has no configuration file");
    };
    match serde_json::to_value(reload.in_force().effective()) {
        Ok(mut config) => {
            redact(&mut config, "");
            Json(config).into_response()
        }
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// Takes out what stands under a secret's name. Paths of key files are none: they say where, not what.
fn redact(value: &mut Value, path: &str) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                // A header to set or to look for is a table with its name in it, or a pair of name and value.
                let is_path = field.as_str().is_some_and(|text| text.starts_with('/'));
                // `sticky.cookie` is a name.
                if is_secret(name) && field.is_string() && !is_path && path != "sticky" {
                    *field = Value::from(REDACTED);
                } else {
                    redact(field, name);
                }
            }
        }
        Value::Array(items) => {
            let named =
                matches!(items.as_slice(), [Value::String(name), Value::String(_)] if is_secret(name));
            if let (true, Some(last)) = (named, items.last_mut()) {
                *last = Value::from(REDACTED);
            }
            for item in items {
                redact(item, path);
            }
        }
        // `Name: value`, as some keys write headers.
        Value::String(text) => {
            if let Some((name, _)) = text.split_once(':').filter(|(name, _)| is_secret(name.trim())) {
                *text = format!("{name}: {REDACTED}");
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_taken_out_wherever_they_stand_and_nothing_else() {
        let mut config = json!({
            "tls": { "key": "/etc/baton/node.key", "cert": "/etc/baton/node.pem" },
            "route": [{ "name": "a", "request_headers": {
                "set": { "Authorization": "Basic c2VjcmV0", "X-Part": "b" },
                "add": [["Cookie", "s=1"], ["X", "y"]],
                "lines": ["X-Api-Key: 12345", "Host: a.test"],
            } }],
            "pool": [{ "health": { "password": "hush", "path": "/health" } }],
        });
        redact(&mut config, "");
        let set = &config["route"][0]["request_headers"];
        assert_eq!(set["set"], json!({ "Authorization": REDACTED, "X-Part": "b" }));
        assert_eq!(set["add"], json!([["Cookie", REDACTED], ["X", "y"]]));
        assert_eq!(set["lines"], json!(["X-Api-Key: (redacted)", "Host: a.test"]));
        assert_eq!(config["tls"]["key"], "/etc/baton/node.key");
        assert_eq!(config["pool"][0]["health"], json!({ "password": REDACTED, "path": "/health" }));
        assert!(!config.to_string().contains("c2VjcmV0"));
    }
}
