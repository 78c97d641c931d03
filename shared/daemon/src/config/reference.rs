//! The reference of a configuration file, in Markdown, from its JSON Schema: every key with its type, default and meaning
//! as they stand in the program.

use schemars::JsonSchema;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;

/// The reference of a file of this type.
pub fn reference<T: JsonSchema>(file: &str) -> String {
    let schema = schemars::schema_for!(T).to_value();
    let mut page = Page { root: &schema, seen: HashMap::new(), text: String::new() };
    let _ = writeln!(page.text, "# Every key of `{file}`\n");
    page.table(&Place { path: String::new(), listed: false }, &schema);
    page.text
}

/// Where a table stands in the file.
struct Place {
    /// With dots; empty for the top of the file.
    path: String,
    /// Whether it is one of a list, `[[path]]`.
    listed: bool,
}

impl Place {
    fn of(&self, key: &str, listed: bool) -> Place {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Place { path, listed }
    }

    fn header(&self) -> String {
        if self.listed { format!("`[[{}]]`", self.path) } else { format!("`[{}]`", self.path) }
    }
}

/// What a value may be.
enum Form<'s> {
    Plain(String),
    /// One of these words, each with what it means.
    Word(Vec<(&'s str, &'s str)>),
    List(Vec<Form<'s>>),
    /// Any keys, with such values.
    Map(Vec<Form<'s>>),
    /// A table of its own, and its name in the schema if it has one.
    Table(Option<&'s str>, &'s Value),
}

struct Page<'s> {
    root: &'s Value,
    /// Where a table of a name is described.
    seen: HashMap<&'s str, String>,
    text: String,
}

impl<'s> Page<'s> {
    fn table(&mut self, place: &Place, schema: &'s Value) {
        if place.path.is_empty() {
            self.text.push_str("## Top of the file\n\n");
        } else {
            let _ = writeln!(self.text, "## {}\n", place.header());
            if let Some(about) = text(schema, "description") {
                let _ = writeln!(self.text, "{}\n", one_line(about));
            }
        }
        self.text.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
        let needed = schema.get("required").and_then(Value::as_array);
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut inner = Vec::new();
        for (key, value) in properties.into_iter().flatten() {
            let forms = self.forms(value);
            let needed = needed.is_some_and(|all| all.iter().any(|one| one == key));
            let default = match value.get("default") {
                _ if needed => "needed".to_owned(),
                None | Some(Value::Null | Value::Object(_)) => String::new(),
                Some(default) => format!("`{default}`"),
            };
            let mut meaning = one_line(text(value, "description").unwrap_or_default());
            self.tables(&forms, place, key, false, &mut inner, &mut meaning);
            for (word, about) in forms.iter().flat_map(words) {
                if !about.is_empty() {
                    let _ = write!(meaning, " `{word}`: {}", one_line(about));
                }
            }
            let _ = writeln!(
                self.text,
                "| `{key}` | {} | {default} | {} |",
                any_of(&forms),
                meaning.replace('|', "\\|").trim()
            );
        }
        self.text.push('\n');
        for (place, schema) in inner {
            self.table(&place, schema);
        }
    }

    /// Notes the tables among the forms that are not described yet, and says where those that are.
    fn tables(
        &mut self,
        forms: &[Form<'s>],
        place: &Place,
        key: &str,
        listed: bool,
        inner: &mut Vec<(Place, &'s Value)>,
        meaning: &mut String,
    ) {
        for form in forms {
            match form {
                Form::List(of) => self.tables(of, place, key, true, inner, meaning),
                Form::Table(name, schema) => {
                    let at = place.of(key, listed);
                    if let Some(header) = name.and_then(|name| self.seen.get(name)) {
                        let _ = write!(meaning, " Keys as in {header}.");
                        continue;
                    }
                    let _ = write!(meaning, " Keys: {}.", at.header());
                    if let Some(name) = name {
                        self.seen.insert(*name, at.header());
                    }
                    inner.push((at, *schema));
                }
                Form::Plain(_) | Form::Word(_) | Form::Map(_) => {}
            }
        }
    }

    /// What a value of this schema may be; that it may be missing is no form.
    fn forms(&self, schema: &'s Value) -> Vec<Form<'s>> {
        self.named(None, schema)
    }

    fn named(&self, name: Option<&'s str>, schema: &'s Value) -> Vec<Form<'s>> {
        if let Some(name) = text(schema, "$ref").and_then(|at| at.strip_prefix("#/$defs/")) {
            let found = self.root.get("$defs").and_then(|all| all.get(name));
            return found.map_or_else(Vec::new, |schema| self.named(Some(name), schema));
        }
        if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
            return any.iter().flat_map(|schema| self.named(name, schema)).collect();
        }
        if let Some(one) = schema.get("oneOf").and_then(Value::as_array) {
            let word = |schema: &'s Value| {
                text(schema, "const")
                    .map(|word| vec![(word, text(schema, "description").unwrap_or_default())])
            };
            let plain = |schema: &'s Value| {
                let all = schema.get("enum")?.as_array()?.iter();
                Some(all.filter_map(Value::as_str).map(|word| (word, "")).collect())
            };
            return vec![Form::Word(
                one.iter().filter_map(|s| word(s).or_else(|| plain(s))).flatten().collect(),
            )];
        }
        if let Some(all) = schema.get("enum").and_then(Value::as_array) {
            return vec![Form::Word(all.iter().filter_map(Value::as_str).map(|word| (word, "")).collect())];
        }
        let types: Vec<&str> = match schema.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        types.into_iter().filter_map(|kind| self.form(kind, name, schema)).collect()
    }

    fn form(&self, kind: &str, name: Option<&'s str>, schema: &'s Value) -> Option<Form<'s>> {
        Some(match kind {
            "null" => return None,
            "array" => Form::List(schema.get("items").map_or_else(Vec::new, |items| self.forms(items))),
            "object" => match schema.get("additionalProperties").filter(|of| of.is_object()) {
                Some(of) => Form::Map(self.forms(of)),
                None => Form::Table(name, schema),
            },
            "integer" => Form::Plain(match (schema.get("minimum"), schema.get("maximum")) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                _ => "number".to_owned(),
            }),
            "boolean" => Form::Plain("`true` or `false`".to_owned()),
            _ if text(schema, "format") == Some("ip") => Form::Plain("address".to_owned()),
            other => Form::Plain(other.to_owned()),
        })
    }
}

fn text<'s>(schema: &'s Value, key: &str) -> Option<&'s str> {
    schema.get(key)?.as_str()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn words<'f, 's>(form: &'f Form<'s>) -> Vec<&'f (&'s str, &'s str)> {
    match form {
        Form::Word(all) => all.iter().collect(),
        Form::List(of) | Form::Map(of) => of.iter().flat_map(words).collect(),
        Form::Plain(_) | Form::Table(..) => Vec::new(),
    }
}

/// The forms in words.
fn any_of(forms: &[Form<'_>]) -> String {
    let all: Vec<String> = forms.iter().map(in_words).collect();
    all.join(" or ")
}

fn in_words(form: &Form<'_>) -> String {
    match form {
        Form::Plain(kind) => kind.clone(),
        Form::Word(all) => {
            let all: Vec<String> = all.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
            all.join(" or ")
        }
        Form::List(of) => format!("list of {}", any_of(of)),
        Form::Map(of) => format!("table of {}", any_of(of)),
        Form::Table(..) => "table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PlaneSettings, Spanned};
    use serde::{Deserialize, Serialize};

    /// Ways.
    #[derive(Default, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Way {
        /// The first.
        #[default]
        One,
        /// The | second.
        Two,
    }

    /// `[[part]]`: a part.
    #[derive(Deserialize, Serialize, JsonSchema)]
    struct Part {
        /// What it is called.
        name: Spanned<String>,
        /// Weights
        /// of it.
        weights: Option<Vec<u8>>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is asked for")]
    struct Whole {
        /// How.
        #[serde(default)]
        way: Way,
        /// Parts.
        #[serde(default)]
        part: Vec<Part>,
        /// One more.
        last: Option<Part>,
        /// The plane.
        #[serde(default)]
        plane: PlaneSettings,
    }

    #[test]
    fn keys_have_their_type_default_and_meaning_and_a_table_is_described_once() {
        let page = reference::<Whole>("x.toml");
        for line in [
            "# Every key of `x.toml`",
            "| `way` | `\"one\"` or `\"two\"` | `\"one\"` | How. `one`: The first. `two`: The \\| second. |",
            "| `part` | list of table | `[]` | Parts. Keys as in `[last]`. |",
            "| `last` | table |  | One more. Keys: `[last]`. |",
            "| `name` | string | needed | What it is called. |",
            "| `weights` | list of 0 to 255 |  | Weights of it. |",
            "| `flows` | number | `65536` | Flows the tables hold; memory is taken for all of them at start. |",
        ] {
            assert!(page.lines().any(|found| found == line), "no line {line:?} in\n{page}");
        }
        let plane = "| `plane` | `\"ebpf\"` or `\"userspace\"` or table |  | The plane. Keys: `[plane]`. |";
        assert!(page.contains(plane), "{page}");
        assert_eq!(page.matches("| `name` |").count(), 1, "{page}");
    }
}
