//! Pools and their members in `/metrics`.

use crate::front::Front;
use crate::pools::{Member, Pool};
use baton_daemon::metrics::seconds;
use baton_loader::monotonic_ns;
use baton_shared::health::{CheckResult, Standing};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::Arc;

/// Of an exemplar that is not there.
type NoLabels = [(&'static str, &'static str); 0];

/// Read at each scrape from the present site.
pub(super) struct OfPools(pub(super) Arc<Front>);

impl fmt::Debug for OfPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OfPools").finish()
    }
}

/// A label beside pool and target, its value, and the number.
type Value = (&'static str, &'static str, u64);

/// Numbers of a member.
struct Series {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// The numbers are microseconds, and shown as seconds.
    time: bool,
    values: fn(&Pool, &Member) -> Vec<Value>,
}

const SERIES: [Series; 5] = [
    Series {
        name: "baton_member_standing",
        help: "How the pool's member stands: 1 at its standing.",
        kind: MetricType::Gauge,
        time: false,
        values: |_, member| {
            let now = member.standing();
            Standing::ALL.iter().map(|s| ("standing", s.name(), u64::from(*s == now))).collect()
        },
    },
    Series {
        name: "baton_picks",
        help: "Requests the member was picked for, by the way they were to go.",
        kind: MetricType::Counter,
        time: false,
        values: |_, member| {
            let (migrated, proxied) = member.picks();
            vec![("way", "migrate", migrated), ("way", "proxy", proxied)]
        },
    },
    Series {
        name: "baton_checks",
        help: "Active checks by their result.",
        kind: MetricType::Counter,
        time: false,
        values: |_, member| {
            CheckResult::ALL.iter().map(|result| ("result", result.name(), member.checks(*result))).collect()
        },
    },
    Series {
        name: "baton_checks_duration",
        help: "How long active checks took, together.",
        kind: MetricType::Counter,
        time: true,
        values: |_, member| vec![("result", "any", member.checks_us())],
    },
    Series {
        name: "baton_member_latency",
        help: "The response time by which least_time chooses; 0 if it is not known.",
        kind: MetricType::Gauge,
        time: true,
        values: |pool, member| {
            vec![(
                "balance",
                pool.spec.choice.method.name(),
                member.target.load.latency_us(monotonic_ns()).into(),
            )]
        },
    },
];

impl Collector for OfPools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let site = self.0.site.load_full();
        for series in &SERIES {
            let unit = series.time.then_some(&Unit::Seconds);
            let mut family = encoder.encode_descriptor(series.name, series.help, unit, series.kind)?;
            for pool in &site.pools {
                for member in pool.members() {
                    for (label, value, number) in (series.values)(pool, member) {
                        let labels = [
                            ("pool", pool.name()),
                            ("target", member.target.spec.name.as_str()),
                            (label, value),
                        ];
                        let mut metric = family.encode_family(&labels)?;
                        match series.kind {
                            MetricType::Counter if series.time => {
                                metric.encode_counter::<NoLabels, _, u64>(&seconds(number), None)?
                            }
                            MetricType::Counter => {
                                metric.encode_counter::<NoLabels, _, u64>(&number, None)?
                            }
                            _ if series.time => metric.encode_gauge(&seconds(number))?,
                            _ => metric.encode_gauge(&i64::try_from(number).unwrap_or(i64::MAX))?,
                        }
                    }
                }
            }
        }
        let help = "1 while too few members are healthy, so that all are used.";
        let mut panic = encoder.encode_descriptor("baton_pool_panic", help, None, MetricType::Gauge)?;
        for pool in &site.pools {
            panic.encode_family(&[("pool", pool.name())])?.encode_gauge(&i64::from(pool.in_panic()))?;
        }
        let help = "Picks made while too few members were healthy.";
        let mut picks =
            encoder.encode_descriptor("baton_pool_panic_picks", help, None, MetricType::Counter)?;
        for pool in &site.pools {
            picks
                .encode_family(&[("pool", pool.name())])?
                .encode_counter::<NoLabels, _, u64>(&pool.panic_picks(), None)?;
        }
        Ok(())
    }
}
