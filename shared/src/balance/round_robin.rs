//! Smooth weighted round robin, as nginx does it: weights 5, 1, 1 give `a a b a c a a` and not `a a a a a b c`.

use super::Candidate;

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct SmoothRoundRobin {
    credits: Vec<i64>,
}

impl SmoothRoundRobin {
    /// For so many members.
    pub fn new(members: usize) -> Self {
        SmoothRoundRobin { credits: vec![0; members] }
    }

    /// The next in turn. One that is not usable loses its place and begins anew when it is back.
    pub fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        self.credits.resize(candidates.len(), 0);
        let mut total = 0i64;
        let mut best: Option<(usize, i64)> = None;
        for (n, (credit, candidate)) in self.credits.iter_mut().zip(candidates).enumerate() {
            let share = i64::from(candidate.share());
            if share == 0 {
                *credit = 0;
                continue;
            }
            total += share;
            *credit += share;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((n, *credit));
            }
        }
        let (n, _) = best?;
        if let Some(credit) = self.credits.get_mut(n) {
            *credit -= total;
        }
        Some(n)
    }
}
