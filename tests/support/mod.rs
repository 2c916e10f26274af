//! A node for a test, and a WebTransport client of another stack (wtransport) that speaks `fulmar.v1.bin`.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use fulmar::{config::Config, hub::Hub, node::Node};
use fulmar_core::{
    ChannelName, ClientMessage, Draft, Payload, StartRequest,
    codec::{binary, varint},
};
use tokio::{sync::oneshot, task::JoinHandle, time};
use wtransport::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, endpoint::endpoint_side::Client,
};

/// Longer than anything here takes; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// A running node in development mode, on ports of its own.
pub struct Running {
    pub hub: Arc<Hub>,
    pub url: String,
    stop: Option<oneshot::Sender<()>>,
    node: JoinHandle<()>,
}

impl Running {
    #[expect(clippy::disallowed_methods, reason = "stop() owns the task")]
    pub fn start() -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let node = Node::bind(Config { http: any, quic: any, ..Config::development() }).expect("binds");
        let (hub, url) = (node.hub().clone(), format!("https://{}/wt", node.quic_address()));
        let (stop, stopped) = oneshot::channel();
        let node = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            node.run(stop).await.expect("runs");
        });
        Self { hub, url, stop: Some(stop), node }
    }

    pub async fn publish(&self, channel: &str, draft: Draft) {
        let channel = ChannelName::parse(channel).expect("a name");
        self.hub.publish("test", channel, draft).await.expect("published");
    }

    /// Ends it, and waits until it has.
    pub async fn stop(mut self) {
        let _ = self.stop.take().expect("not stopped yet").send(());
        within("the end of the node", &mut self.node).await.expect("no panic");
    }
}

pub fn binary_payload(bytes: impl Into<Vec<u8>>) -> Draft {
    Draft::new(Payload::Binary(bytes.into().into()))
}

/// A session of wtransport's.
pub struct Session {
    pub connection: Connection,
    _endpoint: Endpoint<Client>,
}

impl Session {
    pub async fn open(url: &str) -> Self {
        let config = ClientConfig::builder().with_bind_default().with_no_cert_validation().build();
        let endpoint = Endpoint::client(config).expect("a socket");
        let connection = within("the session", endpoint.connect(url)).await.expect("accepted");
        Self { connection, _endpoint: endpoint }
    }

    /// Opens a stream and subscribes on it.
    pub async fn subscribe(&self, channel: &str) -> Stream {
        let mut stream = self.stream().await;
        let message = ClientMessage::Subscribe {
            r#ref: NonZeroU32::new(1),
            channel: ChannelName::parse(channel).expect("a name"),
            start: StartRequest::Afresh,
        };
        stream.send(&message).await;
        let answer = stream.frame().await;
        assert_eq!(answer[0], 0x02, "subscribed: {answer:?}");
        stream
    }

    pub async fn stream(&self) -> Stream {
        let opening = within("credit", self.connection.open_bi()).await.expect("open");
        let (send, recv) = within("the stream", opening).await.expect("open");
        Stream { send, recv, buffer: BytesMut::new() }
    }
}

/// A stream of length-prefixed frames.
pub struct Stream {
    pub send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

impl Stream {
    pub async fn send(&mut self, message: &ClientMessage) {
        let frame = binary::encode_client(message);
        let mut out = Vec::new();
        varint::write(&mut out, frame.len() as u64);
        out.extend_from_slice(&frame);
        self.send.write_all(&out).await.expect("written");
    }

    /// The next frame, which must come.
    pub async fn frame(&mut self) -> Vec<u8> {
        within("a frame", self.try_frame()).await.expect("the stream goes on")
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn try_frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((length, after)) = varint::read(&self.buffer) {
                let end = after + length as usize;
                if self.buffer.len() >= end {
                    let frame = self.buffer[after..end].to_vec();
                    self.buffer.advance(end);
                    return Some(frame);
                }
            }
            let mut chunk = [0; 4096];
            let read = self.recv.read(&mut chunk).await.ok()??;
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

/// Offset and payload of a publication frame without key and id.
pub fn publication(frame: &[u8]) -> (u64, &[u8]) {
    assert_eq!(frame[0], 0x01, "a publication: {frame:?}");
    let mut rest = &frame[1..];
    let mut integers = [0; 3];
    for integer in &mut integers {
        let (value, length) = varint::read(rest).expect("an integer");
        *integer = value;
        rest = &rest[length..];
    }
    (integers[1], &rest[1..])
}

/// The frames of a datagram.
pub fn frames(mut datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((length, after)) = varint::read(datagram) {
        let (frame, rest) = datagram[after..].split_at(length as usize);
        frames.push(frame.to_vec());
        datagram = rest;
    }
    frames
}
