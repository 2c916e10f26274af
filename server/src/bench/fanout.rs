//! Publishing to many subscribers.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet, time};

use super::{
    Outcome, Progress,
    client::{Client, payload},
    server::Server,
    summary::{median, percentile},
};
use crate::clock::Clock;

const CHANNEL: &str = "event:fanout";

/// Publishes small events to many WebSocket subscribers.
#[derive(Debug, clap::Args)]
pub(super) struct Fanout {
    /// Subscribers of the channel
    #[arg(long, default_value_t = 1_000)]
    subscribers: usize,
    /// Payload, in bytes, at least 8
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Publications of a round
    #[arg(long, default_value_t = 1_000)]
    publications: u64,
    /// Publications that may be on their way at once; each is a line of the table
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    in_flight: Vec<usize>,
    /// Rounds, taken in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Fanout {
    pub(super) async fn run(self) -> Outcome {
        if self.payload < 8 || self.subscribers == 0 {
            return Err("--payload must be at least 8 and --subscribers at least 1".into());
        }
        let server = Server::start().await?;
        let audience = Audience::gather(&server, self.subscribers).await?;
        let mut publisher = Client::connect(server.address, None).await?;
        let mut lines: Vec<_> = self.in_flight.iter().map(|_| (Vec::new(), Vec::new(), Vec::new())).collect();
        let before = server.stats().await?;
        let total = self.publications * (self.rounds * self.in_flight.len()) as u64;
        let mut progress = Progress::new("publishing", total);
        let mut done = 0;
        for _ in 0..self.rounds {
            for (line, in_flight) in lines.iter_mut().zip(&self.in_flight) {
                let cpu = server.cpu_seconds()?;
                let mut latencies =
                    audience.round(&mut publisher, self.publications, *in_flight, self.payload).await?;
                let deliveries = (self.publications * self.subscribers as u64) as f64;
                line.0.push((server.cpu_seconds()? - cpu) * 1e6 / deliveries);
                line.1.push(percentile(&mut latencies, 50.0));
                line.2.push(percentile(&mut latencies, 99.0));
                done += self.publications;
                progress.at(done);
            }
        }
        drop(progress);
        let after = server.stats().await?;
        let grown = |name: &str| after[name].as_u64().unwrap_or(0) - before[name].as_u64().unwrap_or(0);
        println!(
            "fan-out over WebSocket: {} B to {} subscribers, {} publications a round, medians of {} rounds",
            self.payload, self.subscribers, self.publications, self.rounds
        );
        println!("{:>10} {:>26} {:>10} {:>10}", "in flight", "CPU-s per 10^6 deliveries", "p50 ms", "p99 ms");
        for ((mut cpu, mut p50, mut p99), in_flight) in lines.into_iter().zip(&self.in_flight) {
            println!(
                "{in_flight:>10} {:>26.2} {:>10.2} {:>10.2}",
                median(&mut cpu),
                median(&mut p50),
                median(&mut p99)
            );
        }
        println!(
            "publications {}, deliveries {}, encoded as binary {}, as JSON {}, wakes {}",
            grown("publications"),
            grown("deliveries"),
            grown("encoded_binary"),
            grown("encoded_json"),
            grown("wakes")
        );
        Ok(())
    }
}

/// Subscribers that note how long publications took to reach them.
#[derive(Debug)]
pub(super) struct Audience {
    clock: Clock,
    size: usize,
    received: Arc<AtomicU64>,
    changed: Arc<Notify>,
    latencies: Arc<Mutex<Vec<f64>>>,
    _tasks: JoinSet<()>,
}

impl Audience {
    /// Subscribes `size` clients.
    pub(super) async fn gather(server: &Server, size: usize) -> Result<Self, Box<dyn Error>> {
        let mut it = Self {
            clock: Clock::start(),
            size,
            received: Arc::default(),
            changed: Arc::default(),
            latencies: Arc::default(),
            _tasks: JoinSet::new(),
        };
        for _ in 0..size {
            let mut client = Client::connect(server.address, Some(CHANNEL)).await?;
            let (clock, received, changed) = (it.clock, it.received.clone(), it.changed.clone());
            let latencies = it.latencies.clone();
            it._tasks.spawn(async move {
                while let Ok(frame) = client.next().await {
                    let sent = payload(&frame).and_then(|payload| payload.first_chunk().copied());
                    if let Some(sent) = sent.map(u64::from_be_bytes) {
                        let took = clock.now().monotonic.saturating_sub(Duration::from_nanos(sent));
                        latencies
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(took.as_secs_f64() * 1e3);
                    }
                    received.fetch_add(1, Ordering::Relaxed);
                    changed.notify_waiters();
                }
            });
        }
        Ok(it)
    }

    /// Publishes with a bound on what is on its way to the slowest, and gives every delivery's latency in ms.
    pub(super) async fn round(
        &self,
        publisher: &mut Client,
        publications: u64,
        in_flight: usize,
        bytes: usize,
    ) -> Result<Vec<f64>, Box<dyn Error>> {
        let start = self.received.load(Ordering::Relaxed);
        for n in 0..publications {
            // All but `in_flight` of what was published must have reached everybody.
            self.reach(start + (n + 1).saturating_sub(in_flight as u64) * self.size as u64).await?;
            let mut payload = vec![b'x'; bytes];
            payload[..8].copy_from_slice(&(self.clock.now().monotonic.as_nanos() as u64).to_be_bytes());
            publisher.publish(CHANNEL, payload).await?;
        }
        self.reach(start + publications * self.size as u64).await?;
        Ok(std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    async fn reach(&self, count: u64) -> Result<(), Box<dyn Error>> {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if self.received.load(Ordering::Relaxed) >= count {
                    return;
                }
                changed.await;
            }
        };
        time::timeout(Duration::from_secs(60), reached)
            .await
            .map_err(|_| "a delivery took more than a minute")?;
        Ok(())
    }
}
