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

/// Takes out what stands under a secret's name, in the table of this name. A key's path is none: it says where, not what.
fn redact(value: &mut Value, table: &str) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let is_path = name == "key" && field.as_str().is_some_and(|text| text.starts_with('/'));
                let is_name = (table, name.as_str()) == ("sticky", "cookie");
                // A cookie's value is one, whatever the cookie is called.
                let is_secret = is_secret(name) || table == "cookie";
                if is_secret && field.is_string() && !is_path && !is_name {
                    *field = Value::from(REDACTED);
                } else {
                    redact(field, name);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, table)),
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
            "route": [{ "name": "a", "cookie": { "preview": "hush" }, "header": { "X-Token": "hush", "X": "y" },
                "request_headers": {
                    "set": { "Authorization": "Basic hush", "X-Part": "b" },
                    "add": { "Cookie": "s=hush" },
                } }],
            "pool": [{ "hash": "cookie:session", "sticky": { "cookie": "at", "secret": "/hush" } }],
        });
        redact(&mut config, "");
        let expected = json!({
            "tls": { "key": "/etc/baton/node.key", "cert": "/etc/baton/node.pem" },
            "route": [{ "name": "a", "cookie": { "preview": REDACTED }, "header": { "X-Token": REDACTED, "X": "y" },
                "request_headers": {
                    "set": { "Authorization": REDACTED, "X-Part": "b" },
                    "add": { "Cookie": REDACTED },
                } }],
            "pool": [{ "hash": "cookie:session", "sticky": { "cookie": "at", "secret": REDACTED } }],
        });
        assert_eq!(config, expected);
    }
}
