//! State machines of the daemons: told what happened and what time it is, asked what to do. No I/O, no clock.

pub mod acceptable;
pub mod accounts;
pub mod adopt;
pub mod behind;
pub mod commit;
pub mod copies;
pub mod ending;
pub mod handoff;
pub mod heard;
pub mod later;
pub mod lost;
pub mod path_mtu;
pub mod recall;
pub mod replay;
pub mod report;
pub mod responses;
pub mod room;
pub mod window;
