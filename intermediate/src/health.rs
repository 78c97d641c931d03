//! The health of pools' members: active checks, what requests and load reports tell, and when an ejection is over.
//! The judgement is in [`baton_shared::health`]; here the facts are got and the outcome is kept.

mod check;
mod run;
mod spec;

pub use check::{CheckFailure, check};
pub use run::run;
pub use spec::{CheckKind, CheckSpec, HealthSpec};
