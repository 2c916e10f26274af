//! Publishes on the server's side of the wire.

use std::{net::SocketAddr, time::Duration};

use fulmar_core::{ChannelName, ClientMessage, Draft, Key, Payload};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::{self, MissedTickBehavior},
};

use super::stamp::Stamp;
use crate::{
    bench::{Outcome, client::Client},
    clock::Clock,
};

/// Publishes all keys of all channels in one go, at every tick, over one WebSocket. Reads `steady`, `bursts COUNT` and `stop`,
/// a line each. Answers when all bursts are done, and when it has stopped: with how often it published, and should have.
#[derive(Debug, clap::Args)]
pub(in crate::bench) struct Publisher {
    /// The server's sidecar, with TLS
    #[arg(long)]
    address: SocketAddr,
    /// Channels, each with the same values
    #[arg(long, value_delimiter = ',')]
    channels: Vec<String>,
    /// Keys of each channel
    #[arg(long)]
    values: usize,
    /// Bytes of a value
    #[arg(long)]
    payload: usize,
    /// Ticks in a second
    #[arg(long)]
    rate: f64,
    /// Ticks of a burst
    #[arg(long)]
    ticks: u32,
    /// From the last tick of a burst to the first of the next, in ms
    #[arg(long)]
    quiet: u64,
}

/// How steadily was published.
#[derive(Clone, Copy, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Ticks {
    pub(super) ticks: u64,
    pub(super) due: f64,
}

impl Publisher {
    pub(in crate::bench) async fn run(self) -> Outcome {
        let mut client = Client::connect_tls(self.address, None).await?;
        let channels: Vec<_> =
            self.channels.iter().map(|it| ChannelName::parse(it)).collect::<Result<_, _>>()?;
        let keys: Vec<_> =
            (0..self.values).map(|n| Key::parse(&format!("k{n}"))).collect::<Result<_, _>>()?;
        let messages = |stamp: Stamp| -> Vec<_> {
            let payload = Payload::Binary(stamp.payload(self.payload).into());
            let of = |channel: &ChannelName, key: &Key| ClientMessage::Publish {
                r#ref: None,
                channel: channel.clone(),
                draft: Draft::value(key.clone(), payload.clone()),
            };
            channels.iter().flat_map(|channel| keys.iter().map(|key| of(channel, key))).collect()
        };
        let interval = Duration::from_secs_f64(1.0 / self.rate);
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        println!("ready");
        // How many bursts are left, which was the last to begin, and what is next in the present one; `None` while nothing is
        // published.
        let (mut left, mut bursts, mut next): (u32, u32, Option<Stamp>) = (0, 0, None);
        let (clock, mut began, mut ticks) = (Clock::start(), Duration::ZERO, 0_u64);
        let mut tick = time::interval(interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let Some(line) = line? else { return Ok(()) };
                    tick.reset_immediately();
                    match line.split_once(' ').unwrap_or((&line, "")) {
                        ("steady", _) => {
                            next = Some(Stamp::default());
                            (began, ticks) = (clock.now().monotonic, 0);
                        }
                        ("bursts", count) => {
                            left = count.parse()?;
                            bursts += 1;
                            next = Some(Stamp { burst: bursts, tick: 0, ticks: self.ticks });
                        }
                        ("stop", _) => {
                            next = None;
                            let due = clock.now().since(began).div_duration_f64(interval);
                            println!("{}", serde_json::to_string(&Ticks { ticks, due })?);
                        }
                        _ => return Err(format!("the publisher does not understand {line:?}").into()),
                    }
                }
                // Answers are of no interest, but the server must not wait for them to be read.
                answer = client.next() => drop(answer?),
                _ = tick.tick() => {
                    let Some(stamp) = next else { continue };
                    client.send_all(&messages(stamp)).await?;
                    ticks += 1;
                    if !stamp.is_last() {
                        next = Some(Stamp { tick: stamp.tick + u32::from(stamp.burst > 0), ..stamp });
                        continue;
                    }
                    left -= 1;
                    next = (left > 0).then(|| Stamp { burst: stamp.burst + 1, tick: 0, ..stamp });
                    bursts = stamp.burst + u32::from(left > 0);
                    tick.reset_after(Duration::from_millis(self.quiet));
                    if left == 0 {
                        println!("done");
                    }
                }
            }
        }
    }
}
