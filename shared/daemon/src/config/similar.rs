//! "Did you mean ...?"

/// How alike a name must be to be worth a question.
const ALIKE: f64 = 0.65;

fn likeness(a: &str, b: &str) -> f64 {
    // The one is good at letters that changed places, the other at long names that begin alike.
    strsim::normalized_damerau_levenshtein(a, b).max(strsim::jaro_winkler(a, b) - 0.1)
}

/// The most alike of the known names, if any is alike.
fn most_alike<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let alike = known.iter().map(|other| (likeness(name, other), *other));
    alike.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(alike, _)| *alike >= ALIKE).map(|(_, other)| other)
}

/// `; did you mean "..."?` with the most alike of the known names, or which there are; nothing if there are none.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match most_alike(name, &known) {
        Some(other) => format!("; did you mean {other:?}?"),
        None if known.is_empty() => String::new(),
        None => {
            format!("; there is {}", known.iter().map(|k| format!("{k:?}")).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The same for a message of the TOML library, which lists what it knows: "unknown field `x`, expected one of `a`, `b`".
pub(super) fn with_hint(message: &str) -> String {
    let what_to_write = match message {
        "invalid socket address syntax" => {
            Some("write ADDRESS:PORT, as \"192.0.2.1:80\" or \"[2001:db8::1]:80\"")
        }
        "invalid IP address syntax" => Some("write it alone, as \"192.0.2.1\" or \"2001:db8::1\""),
        "duplicate key" => Some("it stands above already"),
        _ => None,
    };
    if let Some(hint) = what_to_write {
        return format!("{message}; {hint}");
    }
    if let Some(key) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("{message}; it has no default: add {key} = ...");
    }
    if !message.starts_with("unknown ") {
        return message.to_owned();
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let name = words.next().unwrap_or_default();
    match most_alike(name, &words.collect::<Vec<_>>()) {
        Some(other) => format!("{message}; did you mean `{other}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_asked_about_and_other_words_are_not() {
        for (name, known, hint) in [
            ("tow", &["one", "two"][..], "; did you mean \"two\"?"),
            ("upstream_timeout", &["upstream_timeout_ms", "name"], "; did you mean \"upstream_timeout_ms\"?"),
            ("colour", &["name", "vip"], "; there is \"name\", \"vip\""),
            ("x", &[], ""),
        ] {
            assert_eq!(did_you_mean(name, known.iter().copied()), hint);
        }
        let said = with_hint("unknown field `nmae`, expected one of `name`, `vip`");
        assert_eq!(said, "unknown field `nmae`, expected one of `name`, `vip`; did you mean `name`?");
        assert_eq!(
            with_hint("unknown field `a`, there are no fields"),
            "unknown field `a`, there are no fields"
        );
        assert_eq!(
            with_hint("missing field `name`"),
            "missing field `name`; it has no default: add name = ..."
        );
    }
}
