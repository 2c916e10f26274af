//! Time as an argument.

use std::time::Duration;

/// The moment at which an operation happens, read once by the caller and passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary fixed moment; never goes back. Ages and deadlines are computed on it.
    pub monotonic: Duration,
    /// Milliseconds since 1970-01-01 UTC; may jump. Only shown to people and clients, never computed on.
    pub unix_ms: u64,
}

impl Now {
    /// A moment `ms` milliseconds after the start of both clocks; for tests and simulation.
    pub const fn from_millis(ms: u64) -> Self {
        Self { monotonic: Duration::from_millis(ms), unix_ms: ms }
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Duration) -> Duration {
        self.monotonic.saturating_sub(earlier)
    }
}
