//! Datagrams at full speed.

use super::{Outcome, comparison::Comparison};

/// Publishes values to WebTransport sessions as fast as their connections take them, and lets quinn alone send as many datagrams
/// of their size to as many connections, in two ways.
#[derive(Debug, clap::Args)]
pub(super) struct Datagrams {
    /// WebTransport sessions
    #[arg(long, default_value_t = 50)]
    sessions: usize,
    /// Payload of a value, in bytes: one fits a datagram
    #[arg(long, default_value_t = 1_000)]
    payload: usize,
    /// Datagrams for each session in a round
    #[arg(long, default_value_t = 10_000)]
    datagrams: usize,
    /// Pairs of rounds, taken in turn
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

impl Datagrams {
    pub(super) async fn run(self) -> Outcome {
        let Self { sessions, payload, datagrams, rounds } = self;
        let title = format!("{sessions} sessions, {datagrams} values of {payload} B as fast as they go");
        Comparison { sessions, payload, datagrams, rate: None, rounds }.run(&title).await
    }
}
