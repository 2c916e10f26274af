//! Sources of datagrams: Fulmar, and quinn alone, each in a process of its own that does nothing else.

use std::{
    error::Error,
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fulmar_core::{ChannelName, Draft, Key, Payload, Problem};
use quinn::{Connection, Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, Stdin},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Notify,
    task::JoinSet,
    time::{self, Interval, MissedTickBehavior},
};

use super::{Outcome, server::cpu_seconds};
use crate::{
    clock::Clock, config::Config, hub::Hub, node::Node, tls::Certificates,
    transport::webtransport::transport_config,
};

/// Where sessions find what a source publishes.
pub(super) const CHANNEL: &str = "state:datagrams";
/// Keys that change in turn: more than there are values on their way, so that none overtakes another.
const KEYS: usize = 256;
/// Values that are published and not yet sent to all sessions: enough that every session has always something to send.
const AHEAD: usize = 64;

/// What sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Stack {
    /// A node, and values that are published to it
    Fulmar,
    /// Connections, and a task for each that sends one datagram again and again
    Quinn,
    /// Connections, and one task that sends one datagram to all of them in turn, again and again
    Fanout,
    /// As `fanout`, but the one task wakes a task of each connection, which sends
    Woken,
    /// As `fanout`, with quinn's own settings in place of Fulmar's
    Plain,
}

/// Prints where it is. Sends to all who have connected by then whenever a line comes, and prints how many datagrams it sent.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    #[arg(value_enum)]
    stack: Stack,
    /// Connections that come
    connections: usize,
    /// Datagrams for each of them, for each line
    datagrams: usize,
    /// Bytes of a value, or of a datagram
    bytes: usize,
    /// Datagrams for each of them in a second; as many as they take, if none is given
    #[arg(long)]
    rate: Option<usize>,
}

impl Source {
    pub(super) async fn run(self) -> Outcome {
        let lines = BufReader::new(tokio::io::stdin()).lines();
        match self.stack {
            Stack::Fulmar => self.fulmar(lines).await,
            Stack::Quinn | Stack::Fanout | Stack::Woken | Stack::Plain => self.quinn(lines).await,
        }
    }

    /// What comes at the pace at which is sent, if there is one.
    fn pace(&self) -> Option<Interval> {
        let rate = self.rate?;
        let mut pace = time::interval(Duration::from_secs(1) / u32::try_from(rate).ok()?);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pace)
    }

    async fn quinn(&self, mut lines: Lines<BufReader<Stdin>>) -> Outcome {
        let now = Duration::from_millis(Clock::start().now().unix_ms);
        let certificates = Arc::new(Certificates::development(now)?);
        let crypto = QuicServerConfig::try_from(certificates.server_config(&[b"h3"])?)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        if self.stack != Stack::Plain {
            config.transport_config(Arc::new(transport_config()));
        }
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
        println!("{}", endpoint.local_addr()?);
        let mut connections: Vec<Connection> = Vec::new();
        while connections.len() < self.connections {
            connections.push(endpoint.accept().await.ok_or("the endpoint has ended")?.await?);
        }
        while lines.next_line().await?.is_some() {
            let packet = Bytes::from(vec![0; self.bytes]);
            if self.stack == Stack::Woken {
                println!("{}", self.woken(&connections, &packet).await?);
                continue;
            }
            // One task for all of them, or one for each.
            let size = if self.stack == Stack::Quinn { 1 } else { connections.len() };
            let mut senders = JoinSet::new();
            for chunk in connections.chunks(size) {
                let (chunk, packet, datagrams) = (chunk.to_vec(), packet.clone(), self.datagrams);
                let mut pace = self.pace();
                senders.spawn(async move {
                    for _ in 0..datagrams {
                        next(&mut pace).await;
                        for connection in &chunk {
                            connection.send_datagram_wait(packet.clone()).await?;
                        }
                    }
                    Ok::<_, quinn::SendDatagramError>(())
                });
            }
            while let Some(done) = senders.join_next().await {
                done??;
            }
            println!("{}", self.datagrams * connections.len());
        }
        Ok(())
    }

    /// Lets one task wake a task of each connection for each datagram. How many were sent.
    async fn woken(&self, connections: &[Connection], packet: &Bytes) -> Result<usize, Box<dyn Error>> {
        let sent = Arc::new(AtomicUsize::new(0));
        let (mut senders, mut bells) = (JoinSet::new(), Vec::new());
        for connection in connections {
            let bell = Arc::new(Notify::new());
            bells.push(bell.clone());
            let (connection, packet, sent) = (connection.clone(), packet.clone(), sent.clone());
            senders.spawn(async move {
                loop {
                    bell.notified().await;
                    if connection.send_datagram_wait(packet.clone()).await.is_err() {
                        return;
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (mut pace, datagrams) = (self.pace(), self.datagrams);
        let mut ringer = JoinSet::new();
        ringer.spawn(async move {
            for _ in 0..datagrams {
                next(&mut pace).await;
                bells.iter().for_each(|bell| bell.notify_one());
            }
            time::sleep(Duration::from_millis(50)).await;
        });
        while let Some(done) = ringer.join_next().await {
            done?;
        }
        Ok(sent.load(Ordering::Relaxed))
    }

    async fn fulmar(&self, mut lines: Lines<BufReader<Stdin>>) -> Outcome {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        // Without this machine's figures, which development mode samples ten times a second.
        let config = Config { http: any, quic: any, development: false, ..Config::development() };
        let node = Node::bind(config)?;
        println!("{}", node.quic_address());
        let hub = node.hub().clone();
        let mut running = JoinSet::new();
        running.spawn(node.run(pending()));
        let channel = ChannelName::parse(CHANNEL)?;
        let payload = Bytes::from(vec![0; self.bytes]);
        let rounds =
            Rounds { hub, channel, payload, datagrams: self.datagrams, connections: self.connections };
        while lines.next_line().await?.is_some() {
            // On a task, as those of the others are and as whoever publishes over a network is.
            let mut round = JoinSet::new();
            round.spawn(rounds.clone().run(self.pace()));
            println!("{}", round.join_next().await.ok_or("there was no round")???);
        }
        Ok(())
    }
}

/// What is published to a node.
#[derive(Clone)]
struct Rounds {
    hub: Arc<Hub>,
    channel: ChannelName,
    payload: Bytes,
    datagrams: usize,
    connections: usize,
}

impl Rounds {
    /// Publishes once, and counts the datagrams.
    async fn run(self, mut pace: Option<Interval>) -> Result<u64, Problem> {
        let sent = || self.hub.counters().datagrams.get();
        // At a pace there is one value, which is sent before it changes again.
        let (start, keys) = (sent(), if pace.is_some() { 1 } else { KEYS });
        for n in 0..self.datagrams {
            next(&mut pace).await;
            let key = Key::parse(&format!("{:x}", n % keys))?;
            let draft = Draft::value(key, Payload::Binary(self.payload.clone()));
            self.hub.publish("bench", self.channel.clone(), draft).await?;
            let owed = (n.saturating_sub(AHEAD) * self.connections) as u64;
            // As many as there are, or as time lets: one may be lost where a path shrinks.
            for _ in 0..100 {
                if sent() - start >= owed {
                    break;
                }
                time::sleep(Duration::from_micros(100)).await;
            }
        }
        time::sleep(Duration::from_millis(50)).await;
        Ok(sent() - start)
    }
}

/// Waits until something is to be sent.
async fn next(pace: &mut Option<Interval>) {
    if let Some(pace) = pace {
        pace.tick().await;
    }
}

/// The process of a [`Source`].
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Where it is.
    pub(super) address: SocketAddr,
}

impl Process {
    pub(super) async fn start(
        stack: Stack,
        connections: usize,
        datagrams: usize,
        bytes: usize,
        rate: Option<usize>,
    ) -> Result<Self, Box<dyn Error>> {
        let stack = format!("{stack:?}").to_lowercase();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "source", &stack])
            .args([connections, datagrams, bytes].map(|number| number.to_string()))
            .args(rate.map(|rate| format!("--rate={rate}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or("the process has no input")?;
        let mut output = BufReader::new(child.stdout.take().ok_or("the process has no output")?).lines();
        let address = output.next_line().await?.ok_or("the source did not start")?.parse()?;
        Ok(Self { child, input, output, address })
    }

    /// Lets it send. Processor time for each datagram, in seconds, and how many there were.
    pub(super) async fn round(&mut self) -> Result<(f64, u64), Box<dyn Error>> {
        let before = self.cpu_seconds()?;
        self.input.write_all(b"\n").await?;
        let sent: u64 = self.output.next_line().await?.ok_or("the source has ended")?.parse()?;
        Ok(((self.cpu_seconds()? - before) / sent as f64, sent))
    }

    fn cpu_seconds(&self) -> io::Result<f64> {
        cpu_seconds(self.child.id().ok_or_else(|| io::Error::other("the source has ended"))?)
    }
}
