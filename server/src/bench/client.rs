//! Small WebSocket clients.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use fulmar_core::{
    ChannelName, ClientMessage, Draft, Encoding, Payload,
    codec::{binary, varint},
};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, header},
        protocol::WebSocketConfig,
    },
};

use super::quic;
use crate::transport::websocket::subprotocol;

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that speaks `fulmar.v1.bin`.
#[derive(Debug)]
pub(super) struct Client<S = TcpStream> {
    socket: WebSocketStream<S>,
}

impl Client {
    /// Connects, subscribes to the channel if one is named, and waits until it is subscribed.
    pub(super) async fn connect(address: SocketAddr, channel: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::subscribed(stream, &format!("ws://{address}"), channel).await
    }

    /// Its connection, of which nothing is read or answered any more.
    pub(super) fn into_stream(self) -> TcpStream {
        self.socket.into_inner()
    }
}

impl Client<TlsStream<TcpStream>> {
    /// Likewise over TLS. Any certificate is trusted.
    pub(super) async fn connect_tls(
        address: SocketAddr,
        channel: Option<&str>,
    ) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::new(quic::tls(b"http/1.1")?));
        let stream = tls.connect(ServerName::from(address.ip()), stream).await?;
        Self::subscribed(stream, &format!("wss://{address}"), channel).await
    }

    /// The port of this side.
    pub(super) fn port(&self) -> std::io::Result<u16> {
        Ok(self.socket.get_ref().get_ref().0.local_addr()?.port())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn subscribed(stream: S, origin: &str, channel: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let query = channel.map_or(String::new(), |channel| format!("?channel={channel}"));
        let mut it = Self::over(stream, &format!("{origin}/ws{query}")).await?;
        if channel.is_some() {
            it.next().await?;
        }
        Ok(it)
    }

    /// Connects over what is connected already.
    pub(super) async fn over(stream: S, url: &str) -> Result<Self, Box<dyn Error>> {
        let mut request = url.into_client_request()?;
        let protocol = HeaderValue::from_static(subprotocol(Encoding::Binary));
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let connecting = client_async_with_config(request, stream, Some(config));
        let (socket, _) = time::timeout(PATIENCE, connecting).await??;
        Ok(Self { socket })
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

    /// Sends messages in one go.
    pub(super) async fn send_all(&mut self, messages: &[ClientMessage]) -> Result<(), Box<dyn Error>> {
        for message in messages {
            self.socket.feed(Message::Binary(binary::encode_client(message))).await?;
        }
        Ok(self.socket.flush().await?)
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
