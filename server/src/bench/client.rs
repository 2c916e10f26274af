//! Small WebSocket clients.

use std::{error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use fulmar_core::{
    ChannelName, ClientMessage, Draft, Encoding, Payload,
    codec::{binary, varint},
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpStream, time};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, header},
        protocol::WebSocketConfig,
    },
};

use crate::transport::websocket::subprotocol;

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that speaks `fulmar.v1.bin`.
#[derive(Debug)]
pub(super) struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    /// Connects, subscribes to the channel if one is named, and waits until it is subscribed.
    pub(super) async fn connect(address: SocketAddr, channel: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let query = channel.map_or(String::new(), |channel| format!("?channel={channel}"));
        let mut request = format!("ws://{address}/ws{query}").into_client_request()?;
        let protocol = HeaderValue::from_static(subprotocol(Encoding::Binary));
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connecting = client_async_with_config(request, stream, Some(config));
        let (socket, _) = time::timeout(PATIENCE, connecting).await??;
        let mut it = Self { socket };
        if channel.is_some() {
            it.next().await?;
        }
        Ok(it)
    }

    /// The next frame.
    pub(super) async fn next(&mut self) -> Result<Bytes, Box<dyn Error>> {
        loop {
            match time::timeout(PATIENCE, self.socket.next()).await? {
                Some(Ok(Message::Binary(frame))) => return Ok(frame),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err("the server ended the connection".into()),
            }
        }
    }

    /// Publishes a payload, without waiting for the answer.
    pub(super) async fn publish(&mut self, channel: &str, payload: Vec<u8>) -> Result<(), Box<dyn Error>> {
        let draft = Draft::new(Payload::Binary(payload.into()));
        let message = ClientMessage::Publish { r#ref: None, channel: ChannelName::parse(channel)?, draft };
        self.send(&message).await
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &ClientMessage) -> Result<(), Box<dyn Error>> {
        Ok(self.socket.send(Message::Binary(binary::encode_client(message))).await?)
    }
}

/// The payload of a publication frame without key and id; `None` for other frames.
pub(super) fn payload(frame: &[u8]) -> Option<&[u8]> {
    let mut rest = frame.strip_prefix(&[0x01])?;
    for _ in 0..3 {
        rest = &rest[varint::read(rest)?.1..];
    }
    rest.get(1..)
}
