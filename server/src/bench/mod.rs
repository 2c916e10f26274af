//! `fulmar bench`: workloads that start a server of their own on loopback, load it, and print figures. They assert
//! nothing, but for `trial`. Figures of one run compare with figures of the same run.

mod age;
mod client;
mod comparison;
mod datagrams;
mod fanout;
mod idle;
mod leaks;
mod liveness;
mod paced;
pub(crate) mod quic;
mod random;
mod server;
mod silent;
mod source;
mod stall;
mod summary;
mod trial;

use std::{
    error::Error,
    io::{IsTerminal as _, Write as _},
};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, clap::Subcommand)]
enum Workload {
    /// Memory of idle sessions, by the slope between two counts
    Idle(idle::Idle),
    /// Datagrams at full speed to many WebTransport sessions, against quinn alone: CPU per datagram
    Datagrams(datagrams::Datagrams),
    /// Datagrams at a pace to many WebTransport sessions, against quinn alone: CPU per datagram
    Paced(paced::Paced),
    /// What many streams and sessions leave behind, and clients that come and vanish
    Leaks(leaks::Leaks),
    /// When clients that have fallen silent are found by each transport, and what they leave behind
    Liveness(liveness::Liveness),
    /// Age and convergence of state over a wire that loses packets, by every transport; bytes on the wire. Needs root
    Age(age::Age),
    /// The wire of `age`
    #[command(hide = true)]
    Wire(age::Wire),
    /// Who publishes in `age`
    #[command(hide = true)]
    Publisher(age::Publisher),
    /// Who subscribes in `age`
    #[command(hide = true)]
    Watcher(age::Watcher),
    /// What `datagrams` compares
    #[command(hide = true)]
    Source(source::Source),
    /// Publishing to many WebSocket subscribers: CPU per delivery, latency, encodings per publication
    Fanout(fanout::Fanout),
    /// What one subscriber that stops reading costs the others
    Stall(stall::Stall),
    /// Clients that are killed, stalled, frozen and moved while events flow: fails if one is lost, repeated or out of order
    ///
    /// Clients are killed, stalled, frozen, moved among WebTransport, WebSocket, SSE and long-poll, and given new addresses, by seed.
    /// Every one of them must see each event once and in order, without a gap or reset.
    ///
    /// Channels have the default history, 10,000 events and 5 minutes: the rate and the longest pause have to keep within it, which
    /// is checked; so has what the machine can carry, else there are gaps. What a recovery takes begins when the fault is over, and
    /// ends when the client has all that was published by then, and the next event of each channel.
    Trial(trial::Trial),
}

type Outcome = Result<(), Box<dyn Error>>;

/// Runs a workload.
///
/// # Errors
/// What keeps it from being measured.
pub fn run(arguments: Arguments) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.workload {
            Workload::Idle(it) => it.run().await,
            Workload::Datagrams(it) => it.run().await,
            Workload::Paced(it) => it.run().await,
            Workload::Leaks(it) => it.run().await,
            Workload::Liveness(it) => it.run().await,
            Workload::Age(it) => it.run().await,
            Workload::Wire(it) => it.run(),
            Workload::Publisher(it) => it.run().await,
            Workload::Watcher(it) => it.run().await,
            Workload::Source(it) => it.run().await,
            Workload::Fanout(it) => it.run().await,
            Workload::Stall(it) => it.run().await,
            Workload::Trial(it) => it.run().await,
        }
    })
}

/// A line on the terminal that tells how far a long step has come. Silent where nobody watches.
#[derive(Debug)]
struct Progress {
    what: &'static str,
    total: u64,
    shown: u64,
    watched: bool,
}

impl Progress {
    fn new(what: &'static str, total: u64) -> Self {
        Self { what, total, shown: u64::MAX, watched: std::io::stderr().is_terminal() }
    }

    /// Makes room for other lines; what comes next draws it again.
    fn clear(&mut self) {
        if self.watched {
            eprint!("\r\x1b[2K");
            self.shown = u64::MAX;
        }
    }

    fn at(&mut self, done: u64) {
        let percent = done * 100 / self.total.max(1);
        if self.watched && percent != self.shown {
            self.shown = percent;
            let bar = "#".repeat(percent as usize / 4);
            eprint!("\r{} [{bar:<25}] {percent:3} %", self.what);
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
