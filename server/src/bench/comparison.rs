//! CPU per datagram: Fulmar's against quinn's alone.

use std::{error::Error, net::SocketAddr};

use fulmar_client::{ChannelName, Connector, Start, Trust};
use quinn::TransportConfig;
use tokio::task::JoinSet;

use super::{
    Outcome, Progress, quic,
    source::{CHANNEL, Process, Stack},
    summary::median,
};
use crate::limits;

/// About what Fulmar puts around a value with a short key in a frame of its own, so that both stacks send datagrams of one size.
const AROUND: usize = 29;

/// Sources of the same datagrams that take turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    /// Connections of each.
    pub(super) sessions: usize,
    /// Payload of a value, in bytes: one fits a datagram.
    pub(super) payload: usize,
    /// Datagrams for each connection in a round.
    pub(super) datagrams: usize,
    /// Of those in a second; as many as a connection takes, if none is given.
    pub(super) rate: Option<usize>,
    /// Rounds of each, after one that warms up.
    pub(super) rounds: usize,
}

impl Comparison {
    /// Prints a table below `title`.
    pub(super) async fn run(self, title: &str) -> Outcome {
        let Self { sessions, payload, datagrams, rate, rounds } = self;
        let (mut readers, mut sources) = (Readers::default(), Vec::new());
        // One that is woken again before it has sent sends once, so there is no such thing at full speed.
        let woken = rate.map(|_| Stack::Woken);
        for stack in [Stack::Fulmar, Stack::Quinn, Stack::Fanout, Stack::Plain].into_iter().chain(woken) {
            let bytes = if stack == Stack::Fulmar { payload } else { payload + AROUND };
            let source = Process::start(stack, sessions, datagrams, bytes, rate).await?;
            readers.gather(stack, source.address, sessions).await?;
            sources.push((stack, source, Vec::new(), Vec::new()));
        }
        let mut progress = Progress::new("sending", rounds as u64);
        for round in 0..=rounds {
            for (_, source, costs, shares) in &mut sources {
                let (cost, sent) = source.round().await?;
                if round > 0 {
                    costs.push(cost * 1e6);
                    shares.push(sent as f64 / (datagrams * sessions) as f64 * 100.0);
                }
            }
            progress.at(round as u64);
        }
        drop(progress);
        println!("{title}; medians of {rounds} rounds of each, in turn");
        println!("{:>10} {:>20} {:>20} {:>14}", "", "CPU us a datagram", "fulmar to it", "datagrams in %");
        let ours = sources.first_mut().map_or(f64::NAN, |(_, _, costs, _)| median(costs));
        for (stack, _, costs, shares) in &mut sources {
            let (name, cost) = (format!("{stack:?}").to_lowercase(), median(costs));
            println!("{name:>10} {cost:>20.2} {:>20.2} {:>14.1}", ours / cost, median(shares));
        }
        Ok(())
    }
}

/// Who reads what is sent.
#[derive(Debug, Default)]
struct Readers(JoinSet<()>);

impl Readers {
    /// Connects so many of them to a source.
    async fn gather(&mut self, stack: Stack, address: SocketAddr, count: usize) -> Outcome {
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
    let mut transport = TransportConfig::default();
    // Others take their turns meanwhile, and not every server says something by itself.
    transport.keep_alive_interval(Some(limits::QUIC_KEEP_ALIVE));
    let endpoint = quic::client(transport)?;
    let connection = endpoint.connect(address, "localhost")?.await?;
    Ok(async move {
        let _endpoint = endpoint;
        while connection.read_datagram().await.is_ok() {}
    })
}
