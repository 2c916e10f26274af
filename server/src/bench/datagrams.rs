//! Datagrams at full speed.

use std::{error::Error, net::SocketAddr};

use fulmar_client::{ChannelName, Connector, Start, Trust};
use quinn::TransportConfig;
use tokio::task::JoinSet;

use super::{
    Outcome, Progress, quic,
    source::{CHANNEL, Process, Stack},
    summary::median,
};

/// About what Fulmar puts around a value with a short key in a frame of its own, so that both stacks send datagrams of one size.
pub(super) const AROUND: usize = 29;

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
        let mut readers = Readers::default();
        let mut sources = Vec::new();
        for stack in [Stack::Fulmar, Stack::Quinn, Stack::Fanout] {
            let bytes = if stack == Stack::Fulmar { self.payload } else { self.payload + AROUND };
            let source = Process::start(stack, self.sessions, self.datagrams, bytes, None).await?;
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
                    shares.push(sent as f64 / (self.datagrams * self.sessions) as f64 * 100.0);
                }
            }
            progress.at(round as u64);
        }
        drop(progress);
        println!(
            "{} sessions, {} values of {} B a round, {} rounds each, in turn; medians",
            self.sessions, self.datagrams, self.payload, self.rounds
        );
        println!(
            "{:>10} {:>20} {:>20} {:>30}",
            "", "CPU us a datagram", "fulmar to it", "datagrams of all values in %"
        );
        let ours = sources.first_mut().map_or(f64::NAN, |(_, _, costs, _)| median(costs));
        for (stack, _, costs, shares) in &mut sources {
            let (name, cost) = (format!("{stack:?}").to_lowercase(), median(costs));
            println!("{name:>10} {cost:>20.2} {:>20.2} {:>30.1}", ours / cost, median(shares));
        }
        Ok(())
    }
}

/// Who reads what is sent.
#[derive(Debug, Default)]
pub(super) struct Readers(JoinSet<()>);

impl Readers {
    /// Connects so many of them to a source.
    pub(super) async fn gather(&mut self, stack: Stack, address: SocketAddr, count: usize) -> Outcome {
        for _ in 0..count {
            if stack == Stack::Fulmar {
                self.0.spawn(read_session(format!("https://{address}/wt")).await?);
            } else {
                self.0.spawn(read_quic(address).await?);
            }
        }
        Ok(())
    }
}

/// A subscriber with a socket of its own, so that none drops what is meant for another.
async fn read_session(url: String) -> Result<impl Future<Output = ()>, Box<dyn Error>> {
    let session = Connector::new(&Trust::Insecure)?.connect(&url).await?;
    let mut subscription = session.subscribe(&ChannelName::parse(CHANNEL)?, Start::Afresh).await?;
    Ok(async move {
        let _session = session;
        while subscription.next().await.is_ok() {}
    })
}

async fn read_quic(address: SocketAddr) -> Result<impl Future<Output = ()>, Box<dyn Error>> {
    let endpoint = quic::client(TransportConfig::default())?;
    let connection = endpoint.connect(address, "localhost")?.await?;
    Ok(async move {
        let _endpoint = endpoint;
        while connection.read_datagram().await.is_ok() {}
    })
}
