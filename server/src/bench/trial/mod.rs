//! Whether a client that is killed, stalled, frozen, moved and readdressed while events flow sees each once and in order.

mod client;
mod ledger;
mod limits;
mod link;
mod place;
mod plant;
mod publisher;
mod report;
mod schedule;
mod world;

use std::{error::Error, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};

use self::{client::Client, report::Report, schedule::Schedule, world::World};
use super::{Outcome, Progress, server::Server};

/// Publishes numbered events to clients to which things happen, and asks their applications what they have seen.
#[derive(Debug, clap::Args)]
pub(super) struct Trial {
    /// Clients that read all events
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Events, in all channels together
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Events in a second. A channel's history must hold what comes in two of the longest pauses and 10 s of catching up
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Channels, to which the events go in turn
    #[arg(long, default_value_t = 2)]
    channels: usize,
    /// Payload of an event, in bytes
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// What happens to each client, so many times; the kinds take turns, five make each of them happen
    #[arg(long, default_value_t = 10)]
    faults: usize,
    /// Longest pause of a client that is killed, stalled or frozen, in seconds: 20 at most, since sessions without a connection are
    /// kept for 30 s. After 10 s the server may end connections that show no life, and idle ones; clients come back then
    #[arg(long, default_value_t = 10.0)]
    pause: f64,
    /// What decides which client suffers what, when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Trials, in turn, each with the next seed and a server of its own
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Prints a line for each client
    #[arg(long)]
    verbose: bool,
    /// A fault of the first client's own, which the trial must find
    #[arg(long, value_enum, hide = true)]
    plant: Option<plant::Kind>,
}

impl Trial {
    pub(super) async fn run(self) -> Outcome {
        let longest = self.check()?;
        let mut failed = Vec::new();
        for seed in (self.seed..).take(self.seeds as usize) {
            let mut total = Report::default();
            let (reports, took) = self.trial(seed, longest).await?;
            println!(
                "seed {seed}: {} clients, {} events in {:.1} s in {} channels, {} faults each",
                self.clients,
                self.events,
                took.as_secs_f64(),
                self.channels,
                self.faults
            );
            for (client, report) in reports.into_iter().enumerate() {
                if self.verbose || !report.is_clean() {
                    report.print_line(client);
                }
                total.add(report);
            }
            total.print();
            if !total.is_clean() {
                failed.push(format!("with seed {seed}: {}", total.wrongs()));
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the trial failed {}. A seed gives the same faults again, with the same options",
            failed.join("; ")
        )
        .into())
    }

    /// Whether it can be asked of a server; the longest pause.
    fn check(&self) -> Result<Duration, Box<dyn Error>> {
        let longest = Duration::try_from_secs_f64(self.pause)?;
        if longest > limits::LONGEST_PAUSE {
            return Err(format!("--pause must be {} at most", limits::LONGEST_PAUSE.as_secs()).into());
        }
        if self.clients == 0 || self.rate == 0 || self.seeds == 0 {
            return Err("--clients, --rate and --seeds must be at least 1".into());
        }
        if !(1..=limits::CHANNELS).contains(&self.channels) || self.payload > limits::PAYLOAD_BYTES {
            return Err(format!(
                "--channels must be from 1 to {}, and --payload {} at most",
                limits::CHANNELS,
                limits::PAYLOAD_BYTES
            )
            .into());
        }
        let away = (longest * limits::PAUSES + limits::CATCHING_UP).as_secs_f64();
        let missed = away * f64::from(self.rate) / self.channels as f64;
        if missed > limits::MISSED {
            return Err(format!(
                "a client that is away for {away:.0} s would miss {missed:.0} events of a channel, and the history is to keep them; \
                 take a lower --rate or --pause, or more --channels"
            )
            .into());
        }
        Ok(longest)
    }

    /// One trial. What each client reports, and how long it took to publish.
    async fn trial(&self, seed: u64, longest: Duration) -> Result<(Vec<Report>, Duration), Box<dyn Error>> {
        let server = Server::start().await?;
        let world = Arc::new(World::new(server.address, server.quic(), self.channels, self.events)?);
        let (mut starting, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(limits::AT_ONCE)));
        let mut progress = Progress::new("connecting", self.clients as u64);
        for number in 0..self.clients {
            let schedule = Schedule::new(seed, number, self.events, self.faults, longest);
            let plant = self.plant.filter(|_| number == 0);
            let (world, at_once) = (world.clone(), at_once.clone());
            starting.spawn(async move {
                let _permit = at_once.acquire().await;
                (number, Client::start(world, schedule, plant).await)
            });
        }
        let mut running = JoinSet::new();
        while let Some(started) = starting.join_next().await {
            let (number, client) = started?;
            let client = client.map_err(|why| format!("a client could not begin: {why}"))?;
            running.spawn(async move { (number, Box::pin(client.run()).await) });
            progress.at(running.len() as u64);
        }
        drop(progress);
        let mut progress = Progress::new("publishing", self.events);
        let begun = world.now();
        publisher::publish(&world, self.rate, self.payload, &mut progress).await?;
        let took = world.now().saturating_sub(begun);
        drop(progress);
        let mut progress = Progress::new("waiting for clients", self.clients as u64);
        let mut reports: Vec<_> = (0..self.clients).map(|_| Report::default()).collect();
        let mut ended = 0;
        while let Some(done) = running.join_next().await {
            let (number, report) = done?;
            if let Some(place) = reports.get_mut(number) {
                *place = report;
            }
            ended += 1;
            progress.at(ended);
        }
        Ok((reports, took))
    }
}
