//! Subscribers on the clients' side of the wire.

use std::{
    error::Error,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use fulmar_client::{ChannelName, Connector, Event, Start, Trust};
use fulmar_core::codec::binary::{self, ServerFrame};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    task::JoinSet,
};

use super::{
    figures::Summary,
    flows,
    stamp::Stamp,
    view::{Noted, View},
};
use crate::{
    bench::{Outcome, client::Client},
    clock::Clock,
};

/// The channel of a namespace without early duplication, and of one with.
pub(super) const PLAIN: &str = "state:age";
pub(super) const DUPLICATED: &str = "dup:age";

/// By which way a subscriber gets its values.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Deserialize, serde::Serialize,
)]
pub(super) enum Route {
    /// WebTransport, datagrams
    Datagrams,
    /// WebTransport, datagrams, of a namespace with early duplication
    Duplicated,
    /// WebTransport, a stream: the client takes no datagrams
    Stream,
    /// WebSocket over TLS
    Websocket,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

/// Subscribes by all the ways. Reads `begin` and `report`, a line each, and answers with one.
#[derive(Debug, clap::Args)]
pub(in crate::bench) struct Watcher {
    /// The server's sidecar, with TLS
    #[arg(long)]
    address: SocketAddr,
    /// The server's QUIC
    #[arg(long)]
    quic: SocketAddr,
    /// Ways, each of them so many times
    #[arg(long, value_enum, value_delimiter = ',')]
    routes: Vec<Route>,
    /// Subscribers of each way
    #[arg(long)]
    sessions: usize,
}

/// The subscribers of one way.
#[derive(Debug)]
struct Group {
    route: Route,
    flows: Vec<String>,
    views: Vec<Arc<Mutex<View>>>,
}

/// What the subscribers of one way have seen.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Report {
    pub(super) route: Route,
    /// Their names on the wire.
    pub(super) flows: Vec<String>,
    /// The keys that the one who has the fewest holds.
    pub(super) keys: usize,
    pub(super) publications: u64,
    pub(super) age: Summary,
    pub(super) convergence: Summary,
    pub(super) missed: u64,
}

/// This moment, in ms since 1970.
fn now() -> f64 {
    Clock::unix().as_secs_f64() * 1e3
}

impl Watcher {
    pub(in crate::bench) async fn run(self) -> Outcome {
        let mut tasks = JoinSet::new();
        let mut groups: Vec<_> = self
            .routes
            .iter()
            .map(|route| Group { route: *route, flows: Vec::new(), views: Vec::new() })
            .collect();
        // The ways take turns, so that none has the first or the last of anything.
        for _ in 0..self.sessions {
            for group in &mut groups {
                let view = Arc::<Mutex<View>>::default();
                group.views.push(view.clone());
                group.flows.push(match group.route {
                    Route::Websocket => self.websocket(view, &mut tasks).await?,
                    route => self.webtransport(route, view, &mut tasks).await?,
                });
            }
        }
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        println!("ready");
        loop {
            tokio::select! {
                Some(ended) = tasks.join_next() => return Err(ended?.into()),
                line = lines.next_line() => {
                    let Some(line) = line? else { return Ok(()) };
                    match line.as_str() {
                        "begin" => for view in groups.iter().flat_map(|it| &it.views) {
                            view.lock().unwrap_or_else(PoisonError::into_inner).begin(now());
                        },
                        "report" => {}
                        _ => return Err(format!("the watcher does not understand {line:?}").into()),
                    }
                    let reports: Vec<_> = groups.iter().map(Group::report).collect();
                    println!("{}", serde_json::to_string(&reports)?);
                }
            }
        }
    }

    async fn webtransport(
        &self,
        route: Route,
        view: Arc<Mutex<View>>,
        tasks: &mut JoinSet<String>,
    ) -> Result<String, Box<dyn Error>> {
        let connector = match route {
            Route::Stream => Connector::without_datagrams(&Trust::Insecure)?,
            _ => Connector::new(&Trust::Insecure)?,
        };
        let port = connector.local_address()?.port();
        let session = connector.connect(&format!("https://{}/wt", self.quic)).await?;
        let channel = if route == Route::Duplicated { DUPLICATED } else { PLAIN };
        let mut subscription = session.subscribe(&ChannelName::parse(channel)?, Start::Afresh).await?;
        tasks.spawn(async move {
            let _session = session;
            loop {
                match subscription.next().await {
                    Ok(Event::Publication(it)) => {
                        let stamp = it.payload.as_ref().and_then(|it| Stamp::read(it.bytes()));
                        note(&view, &it.key, it.offset.get(), it.time, stamp);
                    }
                    Ok(_) => {}
                    Err(ended) => return format!("a subscription over WebTransport ended: {ended}"),
                }
            }
        });
        Ok(flows::udp(port))
    }

    async fn websocket(
        &self,
        view: Arc<Mutex<View>>,
        tasks: &mut JoinSet<String>,
    ) -> Result<String, Box<dyn Error>> {
        let mut client = Client::connect_tls(self.address, Some(PLAIN)).await?;
        let port = client.port()?;
        tasks.spawn(async move {
            loop {
                let frame = match client.next().await {
                    Ok(frame) => frame,
                    Err(ended) => return format!("a WebSocket ended: {ended}"),
                };
                if let Ok(ServerFrame::Publication { offset, time, draft, .. }) =
                    binary::decode_server(&frame)
                {
                    let stamp = draft.payload.as_ref().and_then(|it| Stamp::read(it.bytes()));
                    note(&view, &draft.key, offset.get(), time, stamp);
                }
            }
        });
        Ok(flows::tcp(port))
    }
}

fn note(view: &Mutex<View>, key: &fulmar_core::Key, offset: u64, time: u64, stamp: Option<Stamp>) {
    let Some(stamp) = stamp else { return };
    let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
    view.take(now(), key, offset, time as f64, stamp);
}

impl Group {
    fn report(&self) -> Report {
        let mut sum = Noted { keys: usize::MAX, ..Noted::default() };
        for view in &self.views {
            let noted = view.lock().unwrap_or_else(PoisonError::into_inner).report(now());
            sum.keys = sum.keys.min(noted.keys);
            sum.ages.merge(&noted.ages);
            sum.convergence.merge(&noted.convergence);
            sum.missed += noted.missed;
            sum.publications += noted.publications;
        }
        Report {
            route: self.route,
            flows: self.flows.clone(),
            keys: sum.keys,
            publications: sum.publications,
            age: sum.ages.summary(),
            convergence: sum.convergence.summary(),
            missed: sum.missed,
        }
    }
}
