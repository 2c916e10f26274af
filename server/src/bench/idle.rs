//! Memory of idle sessions.

use std::{any::Any, error::Error, time::Duration};

use fulmar_client::{
    ChannelName, Connector, Start, Trust,
    wtransport::{ClientConfig, Endpoint, endpoint::endpoint_side},
};
use quinn::TransportConfig;
use tokio::time;

use super::{Outcome, Progress, client::Client, quic, server::Server, summary::median};

const CHANNEL: &str = "event:idle";

/// Opens connections that do nothing, and compares the server's memory at two counts.
#[derive(Debug, clap::Args)]
pub(super) struct Idle {
    /// What to open; each is a line of the table
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Websocket, Kind::Webtransport, Kind::Subscribed, Kind::Quic])]
    kind: Vec<Kind>,
    /// The smaller count
    #[arg(long, default_value_t = 500)]
    from: usize,
    /// The larger count
    #[arg(long, default_value_t = 2_000)]
    to: usize,
    /// Runs, each with a server of its own
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// WebSocket sessions with one subscription each
    Websocket,
    /// WebTransport sessions
    Webtransport,
    /// WebTransport sessions with a control stream and a stream with one subscription each
    Subscribed,
    /// QUIC connections that ask for nothing, as Firefox opens one beside each session
    Quic,
}

/// What keeps a connection open until it is dropped.
type Held = Box<dyn Any>;

/// What opens them.
struct Opener {
    connector: Connector,
    webtransport: Endpoint<endpoint_side::Client>,
    quic: quinn::Endpoint,
}

impl Opener {
    fn new() -> Result<Self, Box<dyn Error>> {
        let config = ClientConfig::builder().with_bind_default().with_no_cert_validation().build();
        Ok(Self {
            connector: Connector::new(&Trust::Insecure)?,
            webtransport: Endpoint::client(config)?,
            quic: quic::client(TransportConfig::default())?,
        })
    }

    async fn open(&self, kind: Kind, server: &Server) -> Result<Held, Box<dyn Error>> {
        Ok(match kind {
            Kind::Websocket => Box::new(Client::connect(server.address, Some(CHANNEL)).await?),
            Kind::Webtransport => Box::new(self.webtransport.connect(&server.webtransport).await?),
            Kind::Subscribed => {
                let session = self.connector.connect(&server.webtransport).await?;
                let subscription = session.subscribe(&ChannelName::parse(CHANNEL)?, Start::Afresh).await?;
                Box::new((session, subscription))
            }
            Kind::Quic => Box::new(self.quic.connect(server.quic(), "localhost")?.await?),
        })
    }
}

impl Idle {
    pub(super) async fn run(self) -> Outcome {
        if self.from >= self.to {
            return Err("--to must be above --from".into());
        }
        println!(
            "idle connections: growth of the server's Pss from {} to {}, {} rounds",
            self.from, self.to, self.rounds
        );
        println!("{:>14} {:>12} {:>24}", "kind", "KB each", "in each round");
        for kind in &self.kind {
            let mut slopes = Vec::new();
            for _ in 0..self.rounds {
                slopes.push(self.round(*kind).await? / 1000.0);
            }
            let rounds: Vec<_> = slopes.iter().map(|slope| format!("{slope:.2}")).collect();
            let name = format!("{kind:?}").to_lowercase();
            println!("{name:>14} {:>12.2} {:>24}", median(&mut slopes), rounds.join(" "));
        }
        Ok(())
    }

    /// Bytes for each more connection.
    async fn round(&self, kind: Kind) -> Result<f64, Box<dyn Error>> {
        let server = Server::start().await?;
        let opener = Opener::new()?;
        let mut held = Vec::with_capacity(self.to);
        let mut progress = Progress::new("opening", self.to as u64);
        let mut at = [0; 2];
        for (place, count) in [self.from, self.to].into_iter().enumerate() {
            while held.len() < count {
                held.push(opener.open(kind, &server).await?);
                progress.at(held.len() as u64);
            }
            // Lets the server finish what the last handshakes left; this is a measurement, not a test.
            time::sleep(Duration::from_millis(1_000)).await;
            at[place] = server.pss()?;
        }
        Ok((at[1] as f64 - at[0] as f64) / (self.to - self.from) as f64)
    }
}
