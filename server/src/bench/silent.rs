//! Clients that can be gone without a goodbye.

use std::{any::Any, error::Error, net::SocketAddr, time::Duration};

use fulmar_client::{ChannelName, Connector, Relay, Start, Trust};
use serde_json::Value;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time,
};

use super::{client::Client, server::Server};

/// What they subscribe to.
pub(super) const CHANNEL: &str = "event:silent";
/// The receive buffer of an event stream's client, in bytes: soon full when nobody reads.
const RECEIVE_BUFFER: u32 = 4096;
/// Longest head and body that are read of an answer, in bytes.
const ANSWER: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    /// A WebSocket with a subscription
    Websocket,
    /// An event stream
    Sse,
    /// A poll of a session, by ticket, that waits
    Poll,
    /// A WebTransport session with a subscription
    Webtransport,
}

/// Clients that are connected, and of which nothing is heard unless they are asked to do something: nothing reads their sockets, or,
/// of WebTransport, a relay holds their packets.
pub(super) struct Silent {
    sockets: Vec<TcpStream>,
    /// Of WebTransport: what is dropped before the relay, which would pass on its goodbyes.
    sessions: Vec<Box<dyn Any + Send>>,
    _relay: Option<Relay>,
}

impl Silent {
    /// Connects `count` clients, and falls silent.
    pub(super) async fn connect(
        transport: Transport,
        server: &Server,
        count: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let mut it = Self { sockets: Vec::new(), sessions: Vec::new(), _relay: None };
        if transport == Transport::Webtransport {
            let relay = Relay::to(server.quic()).await?;
            let connector = Connector::new(&Trust::Insecure)?;
            let url = format!("https://{}/wt", relay.address());
            for _ in 0..count {
                let session = connector.connect(&url).await?;
                let subscription = session.subscribe(&ChannelName::parse(CHANNEL)?, Start::Afresh).await?;
                it.sessions.push(Box::new((subscription, session)));
            }
            relay.hold(true).await?;
            it._relay = Some(relay);
            return Ok(it);
        }
        for _ in 0..count {
            let opening = async {
                match transport {
                    Transport::Websocket => {
                        Ok(Client::connect(server.address, Some(CHANNEL)).await?.into_stream())
                    }
                    Transport::Sse => event_stream(server.address).await,
                    Transport::Poll | Transport::Webtransport => waiting_poll(server.address).await,
                }
            };
            it.sockets.push(time::timeout(PATIENCE, opening).await??);
        }
        Ok(it)
    }

    /// Goes away: sockets are reset, and WebTransport's are closed with nothing said.
    pub(super) fn vanish(self) -> Result<(), Box<dyn Error>> {
        for socket in &self.sockets {
            SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }
}

async fn event_stream(address: SocketAddr) -> Result<TcpStream, Box<dyn Error>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let mut stream = socket.connect(address).await?;
    request(&mut stream, "GET", &format!("/sse?channel={CHANNEL}"), address, "").await?;
    let mut answer = Vec::new();
    while !answer.windows(9).any(|it| it == b": fulmar\n") {
        read(&mut stream, &mut answer).await?;
    }
    Ok(stream)
}

async fn waiting_poll(address: SocketAddr) -> Result<TcpStream, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    let session = ask(&mut stream, "/session", address, "").await?;
    let secret = session["secret"].as_str().ok_or("a session without a secret")?;
    let bearer = format!("Authorization: Bearer {secret}\r\n");
    let ticket = ask(&mut stream, "/session/ticket", address, &bearer).await?;
    let ticket = ticket["ticket"].as_str().ok_or("no ticket")?;
    let target = format!("/poll?channel={CHANNEL}&wait=30&ticket={ticket}");
    request(&mut stream, "GET", &target, address, "").await?;
    Ok(stream)
}

async fn ask(
    stream: &mut TcpStream,
    target: &str,
    address: SocketAddr,
    headers: &str,
) -> Result<Value, Box<dyn Error>> {
    let headers = format!("{headers}Content-Type: application/json\r\nContent-Length: 2\r\n");
    request(stream, "POST", target, address, &headers).await?;
    stream.write_all(b"{}").await?;
    let mut answer = Vec::new();
    loop {
        read(stream, &mut answer).await?;
        let text = std::str::from_utf8(&answer)?;
        // What is asked for here is one small object.
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            return Ok(body);
        }
    }
}

async fn request(
    stream: &mut TcpStream,
    method: &str,
    target: &str,
    address: SocketAddr,
    headers: &str,
) -> std::io::Result<()> {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await
}

async fn read(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
    if stream.read_buf(into).await? == 0 || into.len() > ANSWER {
        return Err(format!("not an answer: {:?}", String::from_utf8_lossy(into)).into());
    }
    Ok(())
}
