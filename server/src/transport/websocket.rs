//! WebSocket: RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2.

use std::{collections::VecDeque, time::Duration};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use fulmar_core::{
    Encoding, Rejection, ServerMessage,
    codec::{self, binary, json},
    limits as core_limits,
};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::time;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::{
    duplex::{self, Duplex, End, Gone, Heartbeat, Incoming},
    outlet::Outlet,
};
use crate::{
    hub::{Connection, Feed},
    limits,
};

/// The subprotocol of an encoding.
pub const fn subprotocol(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "fulmar.v1.json",
        Encoding::Binary => "fulmar.v1.bin",
    }
}

/// Sets the bounds of a WebSocket.
pub fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(limits::WEBSOCKET_READ_BUFFER)
        .write_buffer_size(limits::WEBSOCKET_WRITE_BUFFER)
        .max_write_buffer_size(limits::WEBSOCKET_WRITE_BUFFER + 2 * core_limits::MESSAGE_BYTES * 4)
        .max_message_size(core_limits::MESSAGE_BYTES)
        .max_frame_size(core_limits::MESSAGE_BYTES)
}

/// How a client wants what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The subprotocol.
    pub encoding: Encoding,
    /// It takes several frames in one binary message.
    pub batches: bool,
}

/// Serves one WebSocket to its end. `greeting` answers what the request's query asked for; `outlet` is its TCP connection's.
pub async fn serve(
    socket: WebSocket,
    connection: Connection,
    mut feed: Feed,
    format: Format,
    greeting: Vec<ServerMessage>,
    outlet: Option<Outlet>,
) {
    let (mut sink, mut source) = halves(socket, format, outlet.clone());
    let duplex = Duplex::new(&connection, format.encoding, Heartbeat::Server, &greeting).over(outlet);
    drop(greeting);
    let end = duplex.run(&mut feed, &mut source, &mut sink).await;
    close(sink, source, end, connection.retry()).await;
}

/// Gives a peer back what it sends, by all the rules of [`serve`] but those of the messages: what a suite that tests
/// RFC 6455 talks to.
pub async fn echo(socket: WebSocket) {
    let (mut sink, mut source) = halves(socket, Format { encoding: Encoding::Json, batches: false }, None);
    let end = loop {
        match source.receive().await {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                if sink.sink.send(message).await.is_err() {
                    break End::Peer;
                }
            }
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    close(sink, source, end, None).await;
}

fn halves(socket: WebSocket, format: Format, outlet: Option<Outlet>) -> (Outgoing, IncomingFrames) {
    let (sink, stream) = socket.split();
    (Outgoing { sink, format, outlet }, IncomingFrames { stream, encoding: format.encoding })
}

async fn close(sink: Outgoing, source: IncomingFrames, end: End, retry: Option<Duration>) {
    // A peer that does not answer the close is left.
    let patience = match end {
        End::Server(code) => limits::close_deadline(code),
        End::Peer | End::Broken(_) => limits::CLOSE_DEADLINE,
    };
    let _ = time::timeout(patience, say_goodbye(sink, source, end, retry)).await;
}

/// The closing handshake, RFC 6455 section 7: tungstenite answers a peer's close on its own as long as it is polled.
async fn say_goodbye(mut sink: Outgoing, mut source: IncomingFrames, end: End, retry: Option<Duration>) {
    match end {
        End::Server(code) => {
            let frame = codec::encode(sink.format.encoding, &ServerMessage::close(code, retry));
            let _ = sink.send_frames(&mut VecDeque::from([frame])).await;
            let close = CloseFrame { code: code.code(), reason: Utf8Bytes::from_static(code.reason()) };
            let _ = sink.sink.send(Message::Close(Some(close))).await;
        }
        End::Broken(code) => {
            let close = CloseFrame { code, reason: Utf8Bytes::from_static("the message cannot be taken") };
            let _ = sink.sink.send(Message::Close(Some(close))).await;
            // What is left unread would make the system reset the connection, and the peer might not see the close.
            time::sleep(limits::CLOSE_LINGER).await;
        }
        End::Peer => {
            let _ = sink.sink.flush().await;
        }
    }
    while let Some(Ok(_)) = source.stream.next().await {}
}

struct Outgoing {
    sink: SplitSink<WebSocket, Message>,
    format: Format,
    outlet: Option<Outlet>,
}

impl Outgoing {
    /// What the next message holds, of `frames`.
    fn next(&self, frames: &mut VecDeque<Bytes>) -> Option<Bytes> {
        match self.format {
            Format { encoding: Encoding::Binary, batches: true } => {
                codec::batch::next(frames, limits::WEBSOCKET_BATCH)
            }
            _ => frames.pop_front(),
        }
    }

    async fn send_frames(&mut self, frames: &mut VecDeque<Bytes>) -> Result<(), Gone> {
        // Pongs to a peer that floods and does not read may have filled tungstenite's buffer, which then takes nothing.
        self.sink.flush().await.map_err(|_| Gone)?;
        while let Some(payload) = self.next(frames) {
            let message = match self.format.encoding {
                Encoding::Json => Message::Text(Utf8Bytes::try_from(payload).map_err(|_| Gone)?),
                Encoding::Binary => Message::Binary(payload),
            };
            self.sink.feed(message).await.map_err(|_| Gone)?;
        }
        self.sink.flush().await.map_err(|_| Gone)?;
        // Nothing more is read before this has left. A stream of HTTP/2 is flushed when the connection has what it was given.
        if let Some(outlet) = &self.outlet {
            outlet.clear().await;
        }
        Ok(())
    }
}

impl duplex::Sink for Outgoing {
    async fn send(&mut self, frames: &mut VecDeque<Bytes>) -> Result<(), Gone> {
        self.send_frames(frames).await
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.sink.flush().await.map_err(|_| Gone)?;
        self.sink.send(Message::Ping(Bytes::new())).await.map_err(|_| Gone)
    }
}

struct IncomingFrames {
    stream: SplitStream<WebSocket>,
    encoding: Encoding,
}

impl IncomingFrames {
    /// The next message, pings and pongs among them, or how the peer ended.
    async fn receive(&mut self) -> Result<Message, End> {
        match self.stream.next().await {
            Some(Ok(Message::Close(_))) | None => Err(End::Peer),
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => {
                let error = error.into_inner().downcast::<tungstenite::Error>();
                Err(error.ok().and_then(|error| close_code(&error)).map_or(End::Peer, End::Broken))
            }
        }
    }
}

impl duplex::Source for IncomingFrames {
    async fn next(&mut self) -> Incoming {
        match self.receive().await {
            Ok(Message::Text(text)) => Incoming::Message(json::decode(text.as_bytes())),
            Ok(Message::Binary(bytes)) if self.encoding == Encoding::Binary => {
                Incoming::Message(binary::decode(&bytes))
            }
            Ok(Message::Binary(_)) => Incoming::Message(Err(Rejection::from(fulmar_core::Problem::new(
                fulmar_core::Code::BadMessage,
                "this session speaks JSON in text messages; ask for fulmar.v1.bin to send binary ones",
            )))),
            Ok(_) => Incoming::Alive,
            Err(End::Broken(code)) => Incoming::Broken(code),
            Err(_) => Incoming::Ended,
        }
    }
}

/// The code by which a peer learns what it did wrong. RFC 6455, section 7.4.1.
fn close_code(error: &tungstenite::Error) -> Option<u16> {
    match error {
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(1002),
        tungstenite::Error::Utf8(_) => Some(1007),
        tungstenite::Error::Capacity(_) => Some(1009),
        _ => None,
    }
}
