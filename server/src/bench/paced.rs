//! Datagrams at a pace.

use super::{Outcome, comparison::Comparison};

/// Publishes one value at a pace to WebTransport sessions, and lets quinn alone send a datagram of its size at that pace to as
/// many connections, in two ways.
#[derive(Debug, clap::Args)]
pub(super) struct Paced {
    /// WebTransport sessions
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Payload of a value, in bytes: one fits a datagram
    #[arg(long, default_value_t = 1_000)]
    payload: usize,
    /// Datagrams for each session in a second
    #[arg(long, default_value_t = 60)]
    rate: usize,
    /// Seconds of a round
    #[arg(long, default_value_t = 5)]
    seconds: usize,
    /// Rounds of each, taken in turn
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

impl Paced {
    pub(super) async fn run(self) -> Outcome {
        let Self { sessions, payload, rate, seconds, rounds } = self;
        let title = format!("{sessions} sessions, a value of {payload} B at {rate} Hz for {seconds} s");
        Comparison { sessions, payload, datagrams: rate * seconds, rate: Some(rate), rounds }
            .run(&title)
            .await
    }
}
