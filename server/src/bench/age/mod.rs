//! The age of state, and how soon it converges, over a wire that loses packets.

mod figures;
mod flows;
mod network;
mod process;
mod publisher;
mod stamp;
mod table;
mod view;
mod watcher;
mod wire;

use std::{error::Error, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time,
};

use self::{
    network::{Network, Place},
    process::{Process, Server},
    publisher::Ticks,
    table::Line,
    watcher::{Report, Route},
    wire::Counts,
};
pub(super) use self::{publisher::Publisher, watcher::Watcher, wire::Wire};
use super::{Outcome, Progress};

/// What passes before anything is measured, so that every path has settled at its loss.
const SETTLE: Duration = Duration::from_secs(2);
/// How long state may take to converge when nothing is published any more.
const REST: Duration = Duration::from_secs(3);

/// Publishes values over a lossy wire between network namespaces, to subscribers by every transport. Needs root, `ip` and
/// `ethtool`.
#[derive(Debug, clap::Args)]
pub(super) struct Age {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [What::Age, What::Convergence])]
    only: Vec<What>,
    /// Ways by which subscribers get their values
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Route::Datagrams, Route::Duplicated, Route::Stream, Route::Websocket])]
    routes: Vec<Route>,
    /// Loss in either direction, in percent; each is a part of the table of ages
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 1.0, 2.0, 5.0, 10.0])]
    loss: Vec<f64>,
    /// Likewise, of the table of convergence
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 5.0, 30.0])]
    burst_loss: Vec<f64>,
    /// Round-trip time, in ms
    #[arg(long, default_value_t = 40)]
    rtt: u64,
    /// Seconds for which ages are looked at, at each loss
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// Bursts, at each loss
    #[arg(long, default_value_t = 30)]
    bursts: u32,
    /// Publications of each key in a burst
    #[arg(long, default_value_t = 18)]
    ticks: u32,
    /// What lies between two bursts, in ms
    #[arg(long, default_value_t = 700)]
    quiet: u64,
    /// Subscribers of each way while ages are measured
    #[arg(long, default_value_t = 4)]
    sessions: usize,
    /// Subscribers of each way by datagram while convergence is measured
    #[arg(long, default_value_t = 8)]
    burst_sessions: usize,
    /// Keys
    #[arg(long, default_value_t = 30)]
    values: usize,
    /// Bytes of a value, at least 12
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// How often every key is published in a second
    #[arg(long, default_value_t = 60.0)]
    rate: f64,
    /// What decides which packets are lost
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Congestion control of TCP
    #[arg(long, default_value = "cubic")]
    tcp: String,
    /// More settings of the namespace without early duplication, in TOML
    #[arg(long, default_value = "")]
    plain: String,
    /// More settings of the namespace with early duplication, in TOML
    #[arg(long, default_value = "")]
    duplicated: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// How old the values are that subscribers hold
    Age,
    /// How long the last values of a burst take to reach them
    Convergence,
}

/// All that runs. What stands first ends first.
struct Rig {
    publisher: Process,
    wire: Process,
    _server: Server,
    _network: Network,
}

impl Age {
    pub(super) async fn run(self) -> Outcome {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Whatever ends first, what was made is removed when it is dropped.
        tokio::select! {
            done = self.measure() => done,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("told to stop".into()),
        }
    }

    async fn measure(&self) -> Outcome {
        let network = Network::build(&self.tcp)?;
        let server = Server::start([&self.plain, &self.duplicated]).await?;
        let delay = (self.rtt * 500).to_string();
        let arguments = ["wire", "server", "client", &delay, &self.seed.to_string()].map(str::to_owned);
        let wire = Process::start(Place::Wire, &arguments).await?;
        let publisher = Process::start(Place::Server, &self.publisher()).await?;
        let mut rig = Rig { publisher, wire, _server: server, _network: network };
        println!(
            "{} values of {} B at {} Hz, {} ms round trip",
            self.values, self.payload, self.rate, self.rtt
        );
        if self.only.contains(&What::Age) {
            self.ages(&mut rig).await?;
        }
        if self.only.contains(&What::Convergence) {
            self.convergence(&mut rig).await?;
        }
        Ok(())
    }

    fn publisher(&self) -> Vec<String> {
        [
            ("address", Server::HTTP.to_string()),
            ("channels", format!("{},{}", watcher::PLAIN, watcher::DUPLICATED)),
            ("values", self.values.to_string()),
            ("payload", self.payload.to_string()),
            ("rate", self.rate.to_string()),
            ("ticks", self.ticks.to_string()),
            ("quiet", self.quiet.to_string()),
        ]
        .into_iter()
        .fold(vec!["publisher".to_owned()], |mut words, (name, value)| {
            words.extend([format!("--{name}"), value]);
            words
        })
    }

    /// Subscribers that have all that there is, on a wire that has lost nothing so far.
    async fn watch(&self, routes: &[Route], sessions: usize) -> Result<Process, Box<dyn Error>> {
        let routes: Vec<_> = routes.iter().map(Route::to_string).collect();
        let words = [
            ("address", Server::HTTP.to_string()),
            ("quic", Server::QUIC.to_string()),
            ("routes", routes.join(",")),
            ("sessions", sessions.to_string()),
        ];
        let words = words.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        let arguments: Vec<_> = std::iter::once("watcher".to_owned()).chain(words).collect();
        Process::start(Place::Client, &arguments).await
    }

    async fn ages(&self, rig: &mut Rig) -> Outcome {
        println!(
            "age of what subscribers hold, every ms, {} of each way for {} s",
            self.sessions, self.seconds
        );
        table::ages_head();
        let total = self.loss.len() as u64 * self.seconds;
        let mut progress = Progress::new("watching ages", total);
        let mut lossless: Vec<Line> = Vec::new();
        for (n, loss) in self.loss.iter().enumerate() {
            rig.lose(0.0).await?;
            rig.publisher.tell("steady").await?;
            let mut watcher = self.watch(&self.routes, self.sessions).await?;
            rig.lose(*loss).await?;
            time::sleep(SETTLE).await;
            let _: Vec<Report> = watcher.ask("begin").await?;
            let _: Counts = rig.wire.ask("reset").await?;
            for second in 0..self.seconds {
                time::sleep(Duration::from_secs(1)).await;
                progress.at(n as u64 * self.seconds + second + 1);
            }
            let reports: Vec<Report> = watcher.ask("report").await?;
            let counts: Counts = rig.wire.ask("counts").await?;
            let ticks: Ticks = rig.publisher.ask("stop").await?;
            self.check(&reports, &counts)?;
            progress.clear();
            let lines: Vec<_> = reports.into_iter().map(|it| Line::new(it, &counts, self.seconds)).collect();
            table::ages(*loss, &lines, &lossless);
            table::trust(&counts, Some(ticks));
            if *loss == 0.0 {
                lossless = lines;
            }
        }
        Ok(())
    }

    async fn convergence(&self, rig: &mut Rig) -> Outcome {
        println!(
            "convergence after bursts of {} publications of each key: {} bursts, {} subscribers of each way",
            self.ticks, self.bursts, self.burst_sessions
        );
        table::convergence_head();
        let datagrams = |route: &&Route| matches!(route, Route::Datagrams | Route::Duplicated);
        let routes: Vec<_> = self.routes.iter().filter(datagrams).copied().collect();
        let burst = Duration::from_secs_f64(f64::from(self.ticks - 1) / self.rate)
            + Duration::from_millis(self.quiet);
        let mut progress =
            Progress::new("watching bursts", self.burst_loss.len() as u64 * u64::from(self.bursts));
        for (n, loss) in self.burst_loss.iter().enumerate() {
            rig.lose(0.0).await?;
            let mut watcher = self.watch(&routes, self.burst_sessions).await?;
            rig.lose(*loss).await?;
            let _: Vec<Report> = watcher.ask("begin").await?;
            let _: Counts = rig.wire.ask("reset").await?;
            rig.publisher.tell(&format!("bursts {}", self.bursts)).await?;
            for done in 0..self.bursts {
                time::sleep(burst).await;
                progress.at(n as u64 * u64::from(self.bursts) + u64::from(done) + 1);
            }
            rig.publisher.line().await?;
            time::sleep(REST).await;
            let reports: Vec<Report> = watcher.ask("report").await?;
            let counts: Counts = rig.wire.ask("counts").await?;
            self.check(&reports, &counts)?;
            progress.clear();
            for report in &reports {
                table::convergence(*loss, report, self.rtt as f64);
            }
            table::trust(&counts, None);
        }
        Ok(())
    }

    /// What would make the figures worthless.
    fn check(&self, reports: &[Report], counts: &Counts) -> Outcome {
        if let Some(short) = reports.iter().find(|it| it.keys < self.values) {
            let (route, keys) = (short.route, short.keys);
            return Err(format!("a subscriber by {route} has {keys} of {} values", self.values).into());
        }
        if counts.overflowed > 0 {
            return Err(format!("the wire had no room for {} frames", counts.overflowed).into());
        }
        Ok(())
    }
}

impl Rig {
    async fn lose(&mut self, percent: f64) -> Result<(), Box<dyn Error>> {
        let _: Counts = self.wire.ask(&format!("loss {percent}")).await?;
        Ok(())
    }
}
