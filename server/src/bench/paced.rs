//! Datagrams at a pace.

use super::{
    Outcome, Progress,
    datagrams::{AROUND, Readers},
    source::{Process, Stack},
    summary::median,
};

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
        let (mut readers, mut sources) = (Readers::default(), Vec::new());
        let datagrams = self.rate * self.seconds;
        for stack in [Stack::Fulmar, Stack::Quinn, Stack::Fanout] {
            let bytes = if stack == Stack::Fulmar { self.payload } else { self.payload + AROUND };
            let source = Process::start(stack, self.sessions, datagrams, bytes, Some(self.rate)).await?;
            readers.gather(stack, source.address, self.sessions).await?;
            sources.push((stack, source, Vec::new(), Vec::new()));
        }
        let mut progress = Progress::new("sending", self.rounds as u64);
        for round in 0..=self.rounds {
            for (_, source, costs, shares) in &mut sources {
                let (cost, sent) = source.round().await?;
                // The first warms up.
                if round > 0 {
                    costs.push(cost * 1e6);
                    shares.push(sent as f64 / (datagrams * self.sessions) as f64 * 100.0);
                }
            }
            progress.at(round as u64);
        }
        drop(progress);
        println!(
            "{} sessions, a value of {} B at {} Hz, {} rounds of {} s each, in turn; medians",
            self.sessions, self.payload, self.rate, self.rounds, self.seconds
        );
        println!("{:>10} {:>20} {:>20} {:>14}", "", "CPU us a datagram", "fulmar to it", "datagrams in %");
        let ours = sources.first_mut().map_or(f64::NAN, |(_, _, costs, _)| median(costs));
        for (stack, _, costs, shares) in &mut sources {
            let (name, cost) = (format!("{stack:?}").to_lowercase(), median(costs));
            println!("{name:>10} {cost:>20.2} {:>20.2} {:>14.1}", ours / cost, median(shares));
        }
        Ok(())
    }
}
