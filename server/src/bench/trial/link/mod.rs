//! Connections of a client, over any transport.

mod http;
mod poll;
mod sse;
mod websocket;
mod webtransport;

use std::{fmt, io, net::Ipv4Addr, time::Duration};

use fulmar_client::Close;
use fulmar_core::{CloseCode, Code, Epoch, Offset, Position};
use serde::Deserialize;
use tokio::{
    net::{TcpSocket, TcpStream},
    time,
};

use self::http::Http;
use super::{
    limits,
    place::{Event, Place},
    schedule::Route,
    world::World,
};

/// Why a connection came to nothing, or is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It ended, or there was none, as happens.
    Ended(String),
    /// The server did what it must not do to such a client.
    Wrong(String),
}

impl Broken {
    fn ended(why: impl fmt::Display) -> Self {
        Self::Ended(why.to_string())
    }

    fn wrong(why: impl fmt::Display) -> Self {
        Self::Wrong(why.to_string())
    }

    /// The server closed: it may when the session goes on elsewhere, and when the client was frozen as it was asked for a sign of
    /// life.
    fn closed(code: u32, why: impl fmt::Display) -> Self {
        let fair = [CloseCode::Replaced, CloseCode::NoHeartbeat].map(|it| u32::from(it.code()));
        if fair.contains(&code) || code == Close::LOST { Self::ended(why) } else { Self::wrong(why) }
    }

    /// The server refused something: it may when the session goes on elsewhere.
    fn refused(code: &str, why: impl fmt::Display) -> Self {
        if code == Code::UnknownSession.as_str() { Self::ended(why) } else { Self::wrong(why) }
    }

    /// Something took longer than it may.
    pub(super) fn late() -> Self {
        Self::ended("it took too long")
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(why) => f.write_str(why),
            Self::Wrong(why) => write!(f, "WRONG: {why}"),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::ended(error)
    }
}

/// What comes over a connection.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Event(Event),
    Gap,
    Reset,
}

/// A session that can be resumed.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Session {
    id: String,
    secret: String,
}

impl Session {
    /// Has the server make one.
    pub(super) async fn make(world: &World) -> Result<Self, Broken> {
        let mut http = Http::over(tcp(world, None).await?, world.http);
        read(&http.post("/session", None).await?)
    }
}

/// Who connects, and from where.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) transport: Route,
    pub(super) place: Place,
    pub(super) session: Option<Session>,
    /// The client's address, of loopback.
    pub(super) from: Option<Ipv4Addr>,
}

/// A connection that is subscribed to all channels of the trial.
#[derive(Debug)]
pub(super) enum Link {
    WebTransport(webtransport::Link),
    WebSocket(Box<websocket::Link>),
    Sse(Box<sse::Link>),
    Poll(Box<poll::Link>),
}

impl Link {
    /// Connects and subscribes; `opening.place` learns where reading begins.
    pub(super) async fn open(world: &World, opening: &mut Opening) -> Result<Self, Broken> {
        let opened = async {
            Ok(match opening.transport {
                Route::WebTransport => Self::WebTransport(webtransport::Link::open(world, opening).await?),
                Route::WebSocket => Self::WebSocket(Box::new(websocket::Link::open(world, opening).await?)),
                Route::Sse => Self::Sse(Box::new(sse::Link::open(world, opening).await?)),
                Route::Poll => Self::Poll(Box::new(poll::Link::open(world, opening).await?)),
            })
        };
        time::timeout(limits::OPENING, opened).await.unwrap_or_else(|_| Err(Broken::late()))
    }

    /// What comes next. Who gives up waiting cannot go on with the connection.
    pub(super) async fn next(&mut self, world: &World) -> Result<Seen, Broken> {
        match self {
            Self::WebTransport(it) => it.next().await,
            Self::WebSocket(it) => it.next(world).await,
            Self::Sse(it) => it.next(world).await,
            Self::Poll(it) => it.next(world).await,
        }
    }

    /// The client goes on elsewhere, and asks for nothing more here. What is on its way still comes.
    pub(super) fn retire(&mut self) {
        if let Self::Poll(it) = self {
            it.retire();
        }
    }

    /// The client goes on elsewhere, and ends what it reads here, if there is a way to say so.
    pub(super) fn let_go(&mut self) {
        match self {
            Self::WebTransport(it) => it.let_go(),
            Self::WebSocket(_) | Self::Sse(_) | Self::Poll(_) => self.retire(),
        }
    }

    /// Ends without a word to the server.
    pub(super) async fn kill(self, world: &World) -> Result<(), Broken> {
        match self {
            Self::WebTransport(it) => it.kill().await,
            // The answer to a poll is on its way.
            Self::Poll(mut it) => it.ask(world).await,
            Self::WebSocket(_) | Self::Sse(_) => Ok(()),
        }
    }

    /// Reads nothing for a while.
    pub(super) async fn stall(&mut self, world: &World, pause: Duration) -> Result<(), Broken> {
        match self {
            Self::WebSocket(it) => it.speak().await?,
            Self::Poll(it) => it.ask(world).await?,
            Self::WebTransport(_) | Self::Sse(_) => {}
        }
        time::sleep(pause).await;
        Ok(())
    }

    /// Neither reads nor writes nor acknowledges for a while. Over TCP the system acknowledges what it has room for.
    pub(super) async fn freeze(&mut self, pause: Duration) -> Result<(), Broken> {
        match self {
            Self::WebTransport(it) => it.freeze(pause).await,
            Self::WebSocket(_) | Self::Sse(_) | Self::Poll(_) => {
                time::sleep(pause).await;
                Ok(())
            }
        }
    }

    /// Comes from another address, where the transport outlives that.
    pub(super) async fn readdress(&mut self) -> Option<Result<(), Broken>> {
        match self {
            Self::WebTransport(it) => Some(it.readdress().await),
            Self::WebSocket(_) | Self::Sse(_) | Self::Poll(_) => None,
        }
    }
}

/// Connects to the sidecar.
async fn tcp(world: &World, from: Option<Ipv4Addr>) -> Result<TcpStream, Broken> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(limits::RECEIVE_BUFFER)?;
    if let Some(from) = from {
        socket.bind((from, 0).into())?;
    }
    let stream = socket.connect(world.http).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What JSON of the server's says.
fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Broken> {
    serde_json::from_slice(json).map_err(Broken::wrong)
}

/// The number that an event carries.
fn number(payload: &[u8]) -> Result<u64, Broken> {
    let number = std::str::from_utf8(payload).ok().and_then(|it| it.parse().ok());
    number.ok_or_else(|| Broken::wrong("an event came without a number"))
}

/// The query of a request that reads all channels.
fn query(world: &World, after: Option<&str>, ticket: Option<&str>) -> String {
    let mut query = String::new();
    let channels = world.channels.iter().map(|it| ("channel", it.as_str()));
    let rest = [("after", after), ("ticket", ticket)].into_iter().filter_map(|(name, it)| Some((name, it?)));
    for (name, value) in channels.chain(rest) {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(value);
    }
    query
}

/// A ticket for a session, if there is one.
async fn ticket(http: &mut Http, session: Option<&Session>) -> Result<Option<String>, Broken> {
    #[derive(Deserialize)]
    struct Answer {
        ticket: String,
    }
    let Some(session) = session else { return Ok(None) };
    let answer: Answer = read(&http.post("/session/ticket", Some(&session.secret)).await?)?;
    Ok(Some(answer.ticket))
}

/// An event out of a publication in JSON.
fn publication(world: &World, text: &str, cursor: Option<String>) -> Result<Event, Broken> {
    #[derive(Deserialize)]
    struct Publication<'a> {
        channel: &'a str,
        epoch: &'a str,
        offset: u64,
        data: &'a str,
    }
    let Publication { channel, epoch, offset, data } = read(text.as_bytes())?;
    let unknown = || Broken::wrong("a publication is of no channel, or has no place");
    let channel = world.channel(channel).ok_or_else(unknown)?;
    let epoch = Epoch::parse(epoch).map_err(|_| unknown())?;
    let offset = Offset::new(offset).ok_or_else(unknown)?;
    Ok(Event { channel, number: number(data.as_bytes())?, position: Position { epoch, offset }, cursor })
}
