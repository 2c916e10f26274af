//! Memory of idle sessions.

use std::time::Duration;

use tokio::time;

use super::{Outcome, Progress, client::Client, server::Server, summary::median};

/// Opens WebSocket sessions with one subscription each, and compares the server's memory at two counts.
#[derive(Debug, clap::Args)]
pub(super) struct Idle {
    /// The smaller count of sessions
    #[arg(long, default_value_t = 1_000)]
    from: usize,
    /// The larger count of sessions
    #[arg(long, default_value_t = 5_000)]
    to: usize,
    /// Runs, each with a server of its own
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Idle {
    pub(super) async fn run(self) -> Outcome {
        if self.from >= self.to {
            return Err("--to must be above --from".into());
        }
        println!("idle WebSocket sessions, one subscription each; Pss of the server process");
        println!(
            "{:>6} {:>10} {:>12} {:>12} {:>16}",
            "round", "sessions", "Pss KiB", "Pss KiB", "KB per session"
        );
        let mut slopes = Vec::new();
        for round in 1..=self.rounds {
            let server = Server::start().await?;
            let mut clients = Vec::with_capacity(self.to);
            let mut progress = Progress::new("opening sessions", self.to as u64);
            let mut at = [0; 2];
            for (place, count) in [self.from, self.to].into_iter().enumerate() {
                while clients.len() < count {
                    clients.push(Client::connect(server.address, Some("event:idle")).await?);
                    progress.at(clients.len() as u64);
                }
                // Lets the server finish what the last handshakes left; this is a measurement, not a test.
                time::sleep(Duration::from_millis(500)).await;
                at[place] = server.pss()?;
            }
            drop(progress);
            let slope = (at[1] as f64 - at[0] as f64) / (self.to - self.from) as f64;
            slopes.push(slope);
            let sessions = format!("{}-{}", self.from, self.to);
            println!(
                "{round:>6} {sessions:>10} {:>12} {:>12} {:>16.2}",
                at[0] / 1024,
                at[1] / 1024,
                slope / 1000.0
            );
        }
        println!("median: {:.2} KB per session", median(&mut slopes) / 1000.0);
        Ok(())
    }
}
