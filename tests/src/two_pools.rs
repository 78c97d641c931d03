//! A site in which the client says by `?to=a` or `?to=b` which of two pools of one target each gets a request.

use netns_lab::LabSpec;

const SITE: &str = r#"
[[pool]]
name = "a"
targets = ["target1"]
[[pool]]
name = "b"
targets = ["target2"]
[[route]]
name = "to-a"
query = { to = "a" }
pool = "a"
[[route]]
name = "to-b"
query = { to = "b" }
pool = "b"
"#;

/// The lab with that site. Requests without `to` go nowhere.
pub fn two_pools(spec: LabSpec) -> LabSpec {
    spec.intermediate_with("listener", "keepalive", "tracked").intermediate_also(SITE)
}

/// The target behind `?to=`.
pub fn served_by(to: char) -> &'static str {
    if to == 'a' { "target1" } else { "target2" }
}
