//! The figures as JSON.

use super::{Case, Figures, Way};
use crate::median;
use baton_loader::Side;

/// A median, and the least and the most.
fn of(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("[{:.digits$}, {least:.digits$}, {most:.digits$}]", median(values.to_vec()))
}

impl Figures {
    fn by(&self, way: Way) -> &[f64] {
        &self.times[way as usize]
    }

    /// What the one way takes more than the other, round by round.
    fn more(&self, way: Way, than: Way) -> Vec<f64> {
        self.by(way).iter().zip(self.by(than)).map(|(a, b)| a - b).collect()
    }

    /// What is told of a case, as far as it has the ways that takes.
    fn parts(&self) -> Vec<(&'static str, Vec<f64>)> {
        let mut parts = vec![
            ("whole", self.by(Way::Forwarded).to_vec()),
            ("forwarding", self.more(Way::Forwarded, Way::Sent)),
            ("from_the_program_on", self.more(Way::Forwarded, Way::Dropped)),
            ("plain_whole", self.by(Way::Plain).to_vec()),
            ("plain_forwarding", self.more(Way::Plain, Way::Sent)),
            ("sending", self.by(Way::Sent).to_vec()),
        ];
        parts.retain(|(_, values)| !values.is_empty());
        parts
    }

    fn row(&self, first: &Figures) -> String {
        let Case { side, train, payload } = self.case;
        let side = match side {
            Side::Intermediate => "intermediate",
            Side::Target => "target",
        };
        let order = if train == 1 { "each_another_flow".to_owned() } else { format!("trains_of_{train}") };
        let (parts, firsts) = (self.parts(), first.parts());
        let times: Vec<_> =
            parts.iter().map(|(name, values)| format!("\"{name}\": {}", of(values, 0))).collect();
        let ratios: Vec<_> = parts
            .iter()
            .zip(&firsts)
            .map(|((name, values), (_, first))| {
                let ratios: Vec<f64> = values.iter().zip(first).map(|(a, b)| a / b).collect();
                format!("\"{name}\": {}", of(&ratios, 2))
            })
            .collect();
        format!(
            "  {{ \"side\": \"{side}\", \"order\": \"{order}\", \"payload\": {payload}, \"flows\": {},\n    \
             \"ns\": {{ {} }},\n    \"over_first\": {{ {} }} }}",
            self.flows,
            times.join(", "),
            ratios.join(", "),
        )
    }
}

/// Rows of so many sizes for each case.
pub(super) fn print(figures: &[Figures], sizes: usize) {
    let rows = figures.chunks(sizes).flat_map(|case| case.iter().map(|figures| figures.row(&case[0])));
    println!("[\n{}\n]", rows.collect::<Vec<_>>().join(",\n"));
}
