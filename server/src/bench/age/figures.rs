//! Many durations, kept as how many there were of each.

/// What one step of a histogram spans, in ms.
const STEP: f64 = 0.05;
/// The longest that is told apart from what is longer, in ms.
const LONGEST: f64 = 10_000.0;

/// Durations in ms.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    steps: Vec<u64>,
    count: u64,
    max: f64,
}

impl Histogram {
    pub(super) fn add(&mut self, ms: f64) {
        let step = (ms.clamp(0.0, LONGEST) / STEP) as usize;
        if step >= self.steps.len() {
            self.steps.resize(step + 1, 0);
        }
        self.steps[step] += 1;
        self.count += 1;
        self.max = self.max.max(ms);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.steps.len() < other.steps.len() {
            self.steps.resize(other.steps.len(), 0);
        }
        for (ours, theirs) in self.steps.iter_mut().zip(&other.steps) {
            *ours += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    #[cfg(test)]
    pub(super) fn max(&self) -> f64 {
        self.max
    }

    pub(super) fn summary(&self) -> Summary {
        let finite = |ms: f64| (ms < LONGEST).then_some(ms);
        Summary {
            count: self.count,
            p50: finite(self.percentile(50.0)),
            p99: finite(self.percentile(99.0)),
            max: finite(self.max).filter(|_| self.count > 0),
        }
    }

    /// Where `percent` of the durations are no longer. NaN when there are none.
    pub(super) fn percentile(&self, percent: f64) -> f64 {
        let wanted = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (step, count) in self.steps.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (step as f64 + 0.5) * STEP;
            }
        }
        f64::NAN
    }
}

/// Of durations, in ms. One that is infinite, or of nothing, is none.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) max: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let (mut all, mut other) = (Histogram::default(), Histogram::default());
        for n in 0..1000 {
            if n % 2 == 0 { &mut all } else { &mut other }.add(f64::from(n) / 10.0);
        }
        all.merge(&other);
        assert_eq!((all.count(), all.max()), (1000, 99.9));
        for (percent, at) in [(50.0, 49.9), (99.0, 98.9), (100.0, 99.9)] {
            assert!((all.percentile(percent) - at).abs() <= STEP, "{percent}: {}", all.percentile(percent));
        }
        assert!(Histogram::default().percentile(50.0).is_nan());
        all.add(LONGEST * 2.0);
        assert!(all.steps.len() as f64 <= LONGEST / STEP + 1.0);
    }
}
