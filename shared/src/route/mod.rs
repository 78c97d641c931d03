//! Which pool a request goes to: a table of routes, compiled once, asked for each request. Pure.
//!
//! The first route in the table of which *all* conditions hold takes the request. Within one condition any of the
//! listed values will do. What is compared with what:
//!
//! | condition | compared with |
//! |---|---|
//! | host | the name of `Host` (of an absolute target, of CONNECT; of a TLS listener the SNI), see [`HostRule`] |
//! | path | the target's path in its normal forms, see [`path`] |
//! | method | the method, by letter and case |
//! | header | any line of that name, white space around the value cut off |
//! | query | any `name=value` of the query, both percent-decoded, `+` a space |
//! | cookie | any `name=value` of the `Cookie` lines |
//! | alpn | any protocol the client offers in its ClientHello |
//!
//! ```
//! use baton_shared::route::{HostRule, NoHeaders, PathRule, PoolId, RequestFacts, Route, RouteTable, Rules};
//! let api = Route::new("api", PoolId(1), Rules {
//!     hosts: vec![HostRule::parse("*.example.com").unwrap()],
//!     path: Some(PathRule::prefix("/api").unwrap()),
//!     ..Rules::default()
//! });
//! let table = RouteTable::new(vec![api]);
//! let facts = RequestFacts {
//!     host: Some("www.example.com"),
//!     ..RequestFacts::new(0, "GET", "/x/..//%61pi/v1", &NoHeaders)
//! };
//! assert_eq!(table.find(&facts).unwrap().unwrap().name, "api");
//! ```

mod facts;
mod limits;
pub mod path;
mod rules;
mod table;
#[cfg(test)]
mod tests;

pub use facts::{HeadLines, HeaderLines, NoHeaders, RequestFacts, any_cookie, host_name};
pub use limits::{BodyVerdict, OwnLimits, RequestLimits};
pub use rules::{HostRule, Mismatch, PathRule, RuleError, Rules, ValueRule};
pub use table::{AmbiguousPath, KeepAlive, Mode, PoolId, Route, RouteTable, Tried};
