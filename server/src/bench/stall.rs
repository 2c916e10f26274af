//! What a subscriber that stops reading costs.

use super::{
    Outcome, Progress,
    client::Client,
    fanout::Audience,
    server::Server,
    summary::{median, percentile},
};

/// Compares rounds without and with subscribers that never read.
#[derive(Debug, clap::Args)]
pub(super) struct Stall {
    /// Subscribers that read
    #[arg(long, default_value_t = 99)]
    subscribers: usize,
    /// Subscribers that do not
    #[arg(long, default_value_t = 1)]
    stalled: usize,
    /// Payload, in bytes
    #[arg(long, default_value_t = 1_000)]
    payload: usize,
    /// Publications of a round
    #[arg(long, default_value_t = 2_000)]
    publications: u64,
    /// Pairs of rounds, taken in turn, each with servers of their own
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

impl Stall {
    pub(super) async fn run(self) -> Outcome {
        let mut progress = Progress::new("publishing", self.rounds as u64);
        let mut figures = [(Vec::new(), Vec::new(), Vec::new()), (Vec::new(), Vec::new(), Vec::new())];
        for round in 0..self.rounds {
            for (stalled, line) in [0, self.stalled].into_iter().zip(&mut figures) {
                let server = Server::start().await?;
                let audience = Audience::gather(&server, self.subscribers).await?;
                let mut silent = Vec::new();
                for _ in 0..stalled {
                    silent.push(Client::connect(server.address, Some("event:fanout")).await?);
                }
                let mut publisher = Client::connect(server.address, None).await?;
                // Fills the history, so that what is measured is the stall and not the log growing.
                audience.round(&mut publisher, 10_000, 32, self.payload).await?;
                let before = server.pss()?;
                let mut latencies =
                    audience.round(&mut publisher, self.publications, 8, self.payload).await?;
                line.0.push(percentile(&mut latencies, 50.0));
                line.1.push(percentile(&mut latencies, 99.0));
                line.2.push((server.pss()? as f64 - before as f64) / 1024.0);
                drop(silent);
            }
            progress.at(round as u64 + 1);
        }
        drop(progress);
        println!(
            "{} subscribers that read and {} that do not: {} B, {} publications, medians of {} rounds each",
            self.subscribers, self.stalled, self.payload, self.publications, self.rounds
        );
        println!("{:>10} {:>10} {:>10} {:>20}", "stalled", "p50 ms", "p99 ms", "Pss growth KiB");
        let mut medians = Vec::new();
        for ((mut p50, mut p99, mut pss), stalled) in figures.into_iter().zip([0, self.stalled]) {
            let line = [median(&mut p50), median(&mut p99), median(&mut pss)];
            println!("{stalled:>10} {:>10.2} {:>10.2} {:>20.0}", line[0], line[1], line[2]);
            medians.push(line);
        }
        println!(
            "ratio of medians, with to without: p50 {:.2}, p99 {:.2}",
            medians[1][0] / medians[0][0],
            medians[1][1] / medians[0][1]
        );
        Ok(())
    }
}
