//! When the clients of a server that stops come back: each at a moment of its own, so that they do not all knock at once on the
//! servers that are left.

use std::time::Duration;

use crate::{clock::entropy, limits};

/// The time over which clients are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    window: Duration,
}

impl Spread {
    /// A time that so many sessions need to come back one after the other, within bounds.
    pub(super) fn over(sessions: usize) -> Self {
        let needed = Duration::from_millis(1_000 * sessions as u64 / limits::RETURNS_PER_SECOND);
        Self { window: needed.clamp(limits::RETRY_WINDOW, limits::RETRY_WINDOW_MAX) }
    }

    /// The delay of the client at `place` of `all`: anywhere in its own part of the time.
    pub(super) fn share(self, place: usize, all: usize) -> Duration {
        self.share_at(place, all, fraction())
    }

    /// The delay of a client that is one of many that nobody has counted: anywhere in the whole of the time.
    pub(super) fn any(self) -> Duration {
        self.share_at(0, 1, fraction())
    }

    fn share_at(self, place: usize, all: usize, within: f64) -> Duration {
        limits::RETRY_LEAST + self.window.mul_f64((place as f64 + within) / all.max(1) as f64)
    }
}

/// Anything from 0 to below 1.
fn fraction() -> f64 {
    f64::from(u32::from_be_bytes(entropy())) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_with_the_sessions_within_bounds() {
        assert_eq!(Spread::over(0).window, limits::RETRY_WINDOW);
        let many = limits::RETURNS_PER_SECOND as usize * 10;
        assert_eq!(Spread::over(many).window, Duration::from_secs(10));
        assert_eq!(Spread::over(limits::SESSIONS).window, limits::RETRY_WINDOW_MAX);
    }

    #[test]
    fn every_client_has_a_part_of_the_time_of_its_own() {
        let spread = Spread::over(5_000);
        let all = 100;
        for place in 0..all {
            let (first, last) = (spread.share_at(place, all, 0.0), spread.share_at(place, all, 0.999_999));
            assert!(
                first < last && last < spread.share_at(place + 1, all, 0.0),
                "{place}: {first:?}, {last:?}"
            );
            let drawn = spread.share(place, all);
            assert!(drawn >= first && drawn < first + spread.window / all as u32, "{place}: {drawn:?}");
        }
        assert_eq!(spread.share_at(0, all, 0.0), limits::RETRY_LEAST);
        assert!(spread.any() < limits::RETRY_LEAST + spread.window);
    }
}
