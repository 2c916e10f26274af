//! The one place that reads clocks and entropy; the core gets both as arguments.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fulmar_core::Now;

/// A clock that began when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts a clock.
    #[expect(clippy::disallowed_methods, reason = "this is the Clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// This moment.
    #[expect(clippy::disallowed_methods, reason = "this is the Clock")]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.start.elapsed(), unix_ms: unix.as_millis() as u64 }
    }

    /// The moment of `monotonic` on this clock, for timers.
    pub fn instant(&self, monotonic: Duration) -> Instant {
        self.start + monotonic
    }

    /// The time since 1970, as exactly as the system tells it.
    #[expect(clippy::disallowed_methods, reason = "this is the Clock")]
    pub fn unix() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Random bytes from the system.
///
/// # Panics
/// When the system has none, in which case no secret could be made.
pub fn entropy<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives entropy");
    bytes
}
