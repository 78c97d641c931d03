//! "Did you mean ...?"

/// How alike a name must be to be worth a question.
const ALIKE: f64 = 0.65;

/// `; did you mean "..."?` with the most alike of the known names, or which there are; nothing if there are none.
pub(super) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let likeness = |other: &str| {
        // The one is good at letters that changed places, the other at long names that begin alike.
        strsim::normalized_damerau_levenshtein(name, other).max(strsim::jaro_winkler(name, other) - 0.1)
    };
    let alike = known.iter().map(|other| (likeness(other), other));
    match alike.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((alike, other)) if alike >= ALIKE => format!("; did you mean {other:?}?"),
        Some(_) => {
            format!("; there is {}", known.iter().map(|k| format!("{k:?}")).collect::<Vec<_>>().join(", "))
        }
        None => String::new(),
    }
}
