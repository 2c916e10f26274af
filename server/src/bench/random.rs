//! Chance that a seed determines.

/// A sequence that a seed determines: SplitMix64.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    /// From 0 to 1, exclusive.
    pub(super) fn chance(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of these, if there are any.
    pub(super) fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get((self.chance() * of.len() as f64) as usize).copied()
    }

    /// Puts them into another order.
    pub(super) fn shuffle<T>(&mut self, of: &mut [T]) {
        for last in (1..of.len()).rev() {
            of.swap(last, (self.chance() * (last + 1) as f64) as usize);
        }
    }
}
