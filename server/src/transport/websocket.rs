//! WebSocket: RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2.

use std::collections::VecDeque;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use fulmar_core::{
    CloseCode, Encoding, Rejection, ServerMessage,
    codec::{self, binary, json},
};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::time;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::duplex::{self, Duplex, End, Gone, Heartbeat, Incoming};
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

/// Serves one WebSocket to its end. `greeting` answers what the request's query asked for.
pub async fn serve(
    socket: WebSocket,
    connection: Connection,
    mut feed: Feed,
    encoding: Encoding,
    greeting: Vec<ServerMessage>,
) {
    let (sink, stream) = socket.split();
    let (mut sink, mut source) = (Outgoing { sink, encoding }, IncomingFrames { stream, encoding });
    let duplex = Duplex::new(&connection, encoding, Heartbeat::Server, &greeting);
    drop(greeting);
    let end = duplex.run(&mut feed, &mut source, &mut sink).await;
    let closing = close(sink, source, end);
    // A peer that does not answer the close is left.
    let _ = time::timeout(limits::CLOSE_DEADLINE, closing).await;
}

/// The closing handshake, RFC 6455 section 7: tungstenite answers a peer's close on its own as long as it is polled.
async fn close(mut sink: Outgoing, mut source: IncomingFrames, end: End) {
    match end {
        End::Server(code) => {
            let frame = codec::encode(sink.encoding, &close_message(code));
            let _ = sink.send_frames(&mut VecDeque::from([frame])).await;
            let close = CloseFrame { code: code.code(), reason: Utf8Bytes::from_static(code.reason()) };
            let _ = sink.sink.send(Message::Close(Some(close))).await;
        }
        End::Broken(code) => {
            let close = CloseFrame { code, reason: Utf8Bytes::from_static("the message cannot be taken") };
            let _ = sink.sink.send(Message::Close(Some(close))).await;
            // What is left unread would make the system reset the connection, and the peer might not see the close.
            time::sleep(limits::CLOSE_DEADLINE / 3).await;
        }
        End::Peer => {
            let _ = sink.sink.flush().await;
        }
    }
    while let Some(Ok(_)) = source.stream.next().await {}
}

fn close_message(code: CloseCode) -> ServerMessage {
    ServerMessage::Close { code: u32::from(code.code()), reason: code.reason().to_owned() }
}

struct Outgoing {
    sink: SplitSink<WebSocket, Message>,
    encoding: Encoding,
}

impl Outgoing {
    async fn send_frames(&mut self, frames: &mut VecDeque<Bytes>) -> Result<(), Gone> {
        while let Some(frame) = frames.pop_front() {
            let message = match self.encoding {
                Encoding::Json => Message::Text(Utf8Bytes::try_from(frame).map_err(|_| Gone)?),
                Encoding::Binary => Message::Binary(frame),
            };
            self.sink.feed(message).await.map_err(|_| Gone)?;
        }
        self.sink.flush().await.map_err(|_| Gone)
    }
}

impl duplex::Sink for Outgoing {
    async fn send(&mut self, frames: &mut VecDeque<Bytes>) -> Result<(), Gone> {
        self.send_frames(frames).await
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.sink.send(Message::Ping(Bytes::new())).await.map_err(|_| Gone)
    }
}

struct IncomingFrames {
    stream: SplitStream<WebSocket>,
    encoding: Encoding,
}

impl duplex::Source for IncomingFrames {
    async fn next(&mut self) -> Incoming {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => Incoming::Message(json::decode(text.as_bytes())),
            Some(Ok(Message::Binary(bytes))) if self.encoding == Encoding::Binary => {
                Incoming::Message(binary::decode(&bytes))
            }
            Some(Ok(Message::Binary(_))) => {
                Incoming::Message(Err(Rejection::from(fulmar_core::Problem::new(
                    fulmar_core::Code::BadMessage,
                    "this session speaks JSON in text messages; ask for fulmar.v1.bin to send binary ones",
                ))))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::Alive,
            Some(Err(error)) => {
                let error = error.into_inner().downcast::<tungstenite::Error>();
                error.ok().and_then(|error| close_code(&error)).map_or(Incoming::Ended, Incoming::Broken)
            }
            Some(Ok(Message::Close(_))) | None => Incoming::Ended,
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
