//! One WebTransport session: its CONNECT stream, its datagrams, and the streams that its client opens.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use fulmar_core::{
    CloseCode, Encoding, Item, Problem, Rejection, ServerMessage,
    codec::{binary, varint},
};
use futures_util::future::poll_fn;
use h3::{quic::RecvStream as _, server::RequestStream};
use h3_webtransport::stream::RecvStream;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    backend::{BidiStream, RecvStream as QuicRecv, SessionStream},
    capsule::{self, Capsule, Capsules},
};
use crate::{
    hub::{Connection, Delivery, Feed, FeedEnd, Order, ReadBudget},
    limits,
    transport::duplex::{self, Duplex, End, Gone, Heartbeat, Incoming},
};

/// What is read at once to be packed into datagrams, in bytes: little, since it ages while datagrams wait for room.
const DATAGRAM_BATCH: usize = 4 * 1024;

pub(super) type ConnectStream = RequestStream<BidiStream<Bytes>, Bytes>;

/// A session of a QUIC connection.
#[derive(Debug)]
pub(super) struct Session {
    quic: quinn::Connection,
    connection: Connection,
    /// What each of its datagrams begins with: a quarter of the session's id. RFC 9297, section 2.1.
    prefix: Vec<u8>,
    /// Whether the control stream, the first, is there.
    controlled: AtomicBool,
    /// The client has been told in-band that the session closes.
    told: CancellationToken,
    ended: CancellationToken,
}

impl Session {
    /// A session, and what gives its datagrams.
    pub(super) fn new(id: u64, quic: quinn::Connection, connection: Connection) -> (Arc<Self>, Feed) {
        let mut prefix = Vec::new();
        varint::write(&mut prefix, id / 4);
        let (connection, datagrams) = connection.with_datagrams();
        let (controlled, told, ended) = Default::default();
        (Arc::new(Self { quic, connection, prefix, controlled, told, ended }), datagrams)
    }

    /// Runs the session on its CONNECT stream until either side closes it.
    pub(super) async fn run(self: Arc<Self>, stream: ConnectStream, mut datagrams: Feed) {
        let (mut send, mut recv) = stream.split();
        let closed = tokio::select! {
            () = client_closes(&mut recv) => None,
            () = self.send_datagrams(&mut datagrams) => None,
            code = self.connection.closed() => Some(code),
            // The control stream asks for signs of life; this holds for sessions that have none too.
            () = self.connection.silence(limits::HEARTBEAT + limits::HEARTBEAT_DEADLINE) => {
                self.connection.close(CloseCode::NoHeartbeat);
                Some(CloseCode::NoHeartbeat)
            }
        };
        if let Some(code) = closed {
            if self.controlled.load(Ordering::Relaxed) {
                let _ = time::timeout(limits::CLOSE_DEADLINE / 4, self.told.cancelled()).await;
            }
            let capsule = capsule::close(u32::from(code.code()), code.reason());
            let _ = time::timeout(limits::CLOSE_DEADLINE / 4, send.send_data(capsule)).await;
        }
        self.ended.cancel();
        let _ = time::timeout(limits::CLOSE_DEADLINE / 4, send.finish()).await;
        if closed.is_some() {
            // The client takes note of the capsule, and ends its side.
            let _ = time::timeout(limits::CLOSE_DEADLINE, client_closes(&mut recv)).await;
        }
    }

    /// Serves a stream that the client opened.
    pub(super) async fn serve(self: Arc<Self>, stream: SessionStream) {
        let SessionStream { send, recv, .. } = stream;
        let control = !self.controlled.swap(true, Ordering::Relaxed);
        let heartbeat = if control { Heartbeat::Server } else { Heartbeat::Elsewhere };
        if control {
            let _ = send.set_priority(1);
        }
        let mut feed = Feed::new(Order::BesideDatagrams);
        let duplex = Duplex::new(&self.connection, Encoding::Binary, heartbeat, &[]);
        let mut source =
            Frames { recv: RecvStream::new(h3::stream::BufRecvStream::new(recv)), state: Reading::default() };
        let mut sink = Outgoing { send, pending: BytesMut::new() };
        let end = tokio::select! {
            end = duplex.run(&mut feed, &mut source, &mut sink) => end,
            () = self.ended.cancelled() => return,
        };
        let end = match end {
            End::Broken(_) => {
                self.connection.close(CloseCode::ProtocolError);
                End::Server(CloseCode::ProtocolError)
            }
            end => end,
        };
        match end {
            // The client ended the stream; had it lost the connection, its subscriptions would wait for it.
            End::Peer => {
                if self.quic.close_reason().is_none() && !self.ended.is_cancelled() {
                    self.connection.end_feed(&feed);
                }
                if control {
                    // Nothing can be told in-band any more.
                    self.told.cancel();
                }
            }
            End::Server(code) if control => {
                let close =
                    ServerMessage::Close { code: u32::from(code.code()), reason: code.reason().to_owned() };
                let mut frames = VecDeque::from([binary::encode(&close)]);
                let told = duplex::Sink::send(&mut sink, &mut frames);
                let _ = time::timeout(limits::CLOSE_DEADLINE / 4, told).await;
                self.told.cancel();
                self.connection.close(code);
                self.ended.cancelled().await;
            }
            End::Server(_) | End::Broken(_) => {}
        }
        let _ = sink.send.finish();
    }

    /// Sends state and signals by datagram, for ever. Values that do not fit go by their subscription's stream; signals
    /// that do not are dropped.
    async fn send_datagrams(&self, feed: &mut Feed) {
        let mut deliveries = Vec::new();
        loop {
            self.connection.ready(feed).await;
            loop {
                let end = self.connection.read(feed, ReadBudget(DATAGRAM_BATCH), &mut deliveries);
                if self.send_batch(&mut deliveries).await.is_err() {
                    // The path takes no datagrams at all: everything was handed to the streams.
                    deliveries.clear();
                }
                if end == FeedEnd::Drained {
                    break;
                }
            }
        }
    }

    async fn send_batch(&self, deliveries: &mut Vec<Delivery>) -> Result<(), Gone> {
        let counters = self.connection.hub().counters();
        let mut packet = BytesMut::new();
        for delivery in deliveries.drain(..) {
            if !matches!(delivery.item(), Some(Item::Publication(..))) {
                continue;
            }
            let room = self.quic.max_datagram_size().unwrap_or(0);
            let frame = delivery.frame(Encoding::Binary, counters);
            let mut length = Vec::with_capacity(8);
            varint::write(&mut length, frame.len() as u64);
            let needed = length.len() + frame.len();
            if self.prefix.len() + needed > room {
                self.connection.expedite(&delivery);
                continue;
            }
            if !packet.is_empty() && packet.len() + needed > room {
                self.send_datagram(packet.split().freeze()).await?;
            }
            if packet.is_empty() {
                packet.extend_from_slice(&self.prefix);
            }
            packet.extend_from_slice(&length);
            packet.extend_from_slice(&frame);
        }
        if packet.is_empty() { Ok(()) } else { self.send_datagram(packet.freeze()).await }
    }

    /// Waits for room instead of pushing out what waits already: what is newer by then goes in its place.
    async fn send_datagram(&self, packet: Bytes) -> Result<(), Gone> {
        match self.quic.send_datagram_wait(packet).await {
            Ok(()) => {
                self.connection.hub().counters().datagrams.increment();
                Ok(())
            }
            // The path has shrunk since its size was asked for. What was lost so goes by stream when it has rested.
            Err(quinn::SendDatagramError::TooLarge) => Ok(()),
            Err(_) => Err(Gone),
        }
    }
}

/// Waits until the client closes the session: by capsule, by ending the CONNECT stream, or by breaking its rules.
async fn client_closes<S>(recv: &mut RequestStream<S, Bytes>)
where
    S: h3::quic::RecvStream,
{
    let mut capsules = Capsules::default();
    while let Ok(Some(bytes)) = recv.recv_data().await {
        capsules.push(bytes);
        match capsules.next() {
            Ok(None) => {}
            Ok(Some(Capsule::Close { code, reason })) => {
                tracing::debug!(code, reason, "the client closed its session");
                return;
            }
            Err(_) => return,
        }
    }
}

/// Reads length-prefixed frames off a stream.
struct Frames {
    recv: RecvStream<QuicRecv, Bytes>,
    state: Reading,
}

#[derive(Default)]
struct Reading {
    buffer: BytesMut,
    /// After a frame that cannot be passed over, nothing on the stream makes sense.
    broken: bool,
}

impl Reading {
    fn next(&mut self) -> Option<Incoming> {
        let (length, after) = varint::read(&self.buffer)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > fulmar_core::limits::MESSAGE_BYTES {
            self.broken = true;
            let message = format!("a frame has at most {} bytes", fulmar_core::limits::MESSAGE_BYTES);
            let problem = Problem::new(fulmar_core::Code::MessageTooLarge, message);
            return Some(Incoming::Message(Err(Rejection::from(problem))));
        }
        let end = after + length;
        let frame = self.buffer.get(after..end)?;
        let message = binary::decode(frame);
        bytes::Buf::advance(&mut self.buffer, end);
        Some(Incoming::Message(message))
    }
}

impl duplex::Source for Frames {
    async fn next(&mut self) -> Incoming {
        loop {
            if self.state.broken {
                return Incoming::Broken(CloseCode::ProtocolError.code());
            }
            if let Some(incoming) = self.state.next() {
                return incoming;
            }
            match poll_fn(|cx| self.recv.poll_data(cx)).await {
                Ok(Some(bytes)) => self.state.buffer.extend_from_slice(&bytes),
                Ok(None) | Err(_) => return Incoming::Ended,
            }
        }
    }
}

/// Writes length-prefixed frames to a stream.
struct Outgoing {
    send: quinn::SendStream,
    /// What is left of frames whose write was given up half-way; without it the stream would make no sense.
    pending: BytesMut,
}

impl duplex::Sink for Outgoing {
    async fn send(&mut self, frames: &mut VecDeque<Bytes>) -> Result<(), Gone> {
        self.pending.reserve(frames.iter().map(|frame| frame.len() + 8).sum());
        let mut length = Vec::with_capacity(8);
        for frame in frames.drain(..) {
            length.clear();
            varint::write(&mut length, frame.len() as u64);
            self.pending.extend_from_slice(&length);
            self.pending.extend_from_slice(&frame);
        }
        while !self.pending.is_empty() {
            let written = self.send.write(&self.pending).await.map_err(|_| Gone)?;
            bytes::Buf::advance(&mut self.pending, written);
        }
        // An idle stream keeps no buffer.
        self.pending = BytesMut::new();
        Ok(())
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.send(&mut VecDeque::from([binary::encode(&ServerMessage::Ping { r#ref: None })])).await
    }
}
