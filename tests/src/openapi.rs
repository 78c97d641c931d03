//! Answers compared with the OpenAPI file that describes them.

use serde_json::Value;

/// The keywords of JSON Schema that are looked at; one that is not may not stand in a file, or it would say nothing.
const KNOWN: [&str; 9] =
    ["type", "properties", "required", "additionalProperties", "items", "$ref", "anyOf", "enum", "pattern"];
/// And those that only explain.
const SAID: [&str; 1] = ["description"];

/// What is wrong with a value by a schema of a document: places and reasons.
pub fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    look(document, schema, value, "", &mut faults);
    faults
}

fn look(document: &Value, schema: &Value, value: &Value, place: &str, faults: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        return faults.push(format!("{place}: the schema is no object"));
    };
    for keyword in keywords.keys() {
        if !KNOWN.contains(&keyword.as_str()) && !SAID.contains(&keyword.as_str()) {
            faults.push(format!("{place}: keyword {keyword:?} is not looked at"));
        }
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        match reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer)) {
            Some(schema) => look(document, schema, value, place, faults),
            None => faults.push(format!("{place}: {reference} is not there")),
        }
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let of = |choice: &Value| {
            let mut faults = Vec::new();
            look(document, choice, value, place, &mut faults);
            faults
        };
        let all: Vec<Vec<String>> = choices.iter().map(of).collect();
        if !all.iter().any(Vec::is_empty) {
            faults.extend(all.into_iter().flatten());
        }
    }
    if let Some(kind) = schema.get("type") {
        let allowed: Vec<&str> = match kind {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        if !allowed.iter().any(|kind| is(kind, value)) {
            faults.push(format!("{place}: {value} is not {allowed:?}"));
        }
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array)
        && !values.contains(value)
    {
        faults.push(format!("{place}: {value} is none of {values:?}"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        // The only one there is: a flow's number.
        let hexadecimal = |text: &str| {
            text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if pattern != "^[0-9a-f]{16}$" {
            faults.push(format!("{place}: pattern {pattern:?} is not looked at"));
        } else if !value.as_str().is_some_and(hexadecimal) {
            faults.push(format!("{place}: {value} does not match {pattern}"));
        }
    }
    if let (Some(items), Some(elements)) = (schema.get("items"), value.as_array()) {
        for (n, element) in elements.iter().enumerate() {
            look(document, items, element, &format!("{place}/{n}"), faults);
        }
    }
    if let Some(fields) = value.as_object() {
        let properties = schema.get("properties").and_then(Value::as_object);
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if !name.as_str().is_some_and(|name| fields.contains_key(name)) {
                faults.push(format!("{place}: {name} is missing"));
            }
        }
        for (name, field) in fields {
            let place = format!("{place}/{name}");
            match (properties.and_then(|p| p.get(name)), schema.get("additionalProperties")) {
                (Some(schema), _) => look(document, schema, field, &place, faults),
                (None, Some(Value::Bool(false))) => faults.push(format!("{place}: is not described")),
                (None, Some(schema @ Value::Object(_))) => look(document, schema, field, &place, faults),
                (None, _) => {}
            }
        }
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_found_wherever_it_is() {
        let document = json!({ "components": { "schemas": {
            "Id": { "type": "string", "pattern": "^[0-9a-f]{16}$" },
            "Flow": {
                "type": "object",
                "properties": {
                    "id": { "$ref": "#/components/schemas/Id" },
                    "end": { "anyOf": [{ "type": "object", "properties": {}, "required": ["why"] }, { "type": "null" }] },
                    "n": { "type": ["integer", "null"] },
                    "state": { "type": "string", "enum": ["a", "b"] },
                },
                "required": ["id", "state"],
                "additionalProperties": false,
            },
        } } });
        let list = json!({ "type": "array", "items": { "$ref": "#/components/schemas/Flow" } });
        let found = |value: Value| faults(&document, &list, &value);
        let good = json!([{ "id": "00000000000000ff", "end": null, "n": 3, "state": "a" }]);
        assert_eq!(found(good.clone()), Vec::<String>::new());
        for (pointer, wrong, place) in [
            ("/0/id", json!("ff"), "/0/id"),
            ("/0/id", json!(1), "/0/id"),
            ("/0/end", json!({}), "/0/end"),
            ("/0/n", json!("3"), "/0/n"),
            ("/0/n", json!(3.5), "/0/n"),
            ("/0/state", json!("c"), "/0/state"),
            ("/0", json!({ "id": "00000000000000ff" }), "/0"),
            ("/0", json!({ "id": "00000000000000ff", "state": "a", "more": 1 }), "/0/more"),
            ("", json!({}), ""),
        ] {
            let mut value = good.clone();
            *value.pointer_mut(pointer).unwrap() = wrong;
            let faults = found(value.clone());
            assert!(
                !faults.is_empty() && faults.iter().all(|fault| fault.starts_with(place)),
                "{value}: {faults:?}"
            );
        }
        let unknown = json!({ "minimum": 3 });
        assert_eq!(faults(&document, &unknown, &json!(1)).len(), 1, "what is not looked at is no check");
    }
}
