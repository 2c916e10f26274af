//! What WebSocket and a WebTransport stream have in common: messages in, frames out, both at once.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fulmar_core::{
    ClientMessage, CloseCode, Encoding, Rejection, ServerMessage,
    codec::{binary, json},
};
use tokio::{sync::Notify, time};

use crate::{
    hub::{Connection, Feed, FeedHandle, ReadBudget},
    limits,
};

/// What came from the peer.
#[derive(Debug)]
pub enum Incoming {
    /// A message, or what was wrong with it.
    Message(Result<ClientMessage, Rejection>),
    /// A sign of life.
    Alive,
    /// The peer is done.
    Ended,
    /// The peer broke the transport's rules; nothing more can be read.
    Broken(u16),
}

/// Where messages come from.
pub trait Source {
    /// The next thing from the peer. Cancelled only when the connection ends.
    fn next(&mut self) -> impl Future<Output = Incoming> + Send;
}

/// Where frames go.
pub trait Sink {
    /// Writes frames, in order, and returns when the peer's transport has taken them.
    ///
    /// # Errors
    /// [`Gone`] when the transport takes nothing any more.
    fn send(&mut self, frames: &mut Vec<Bytes>) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Asks the peer for a sign of life.
    ///
    /// # Errors
    /// As [`Self::send`].
    fn ping(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The transport takes nothing any more.
#[derive(Debug)]
pub struct Gone;

/// How a duplex ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer ended it, or is gone.
    Peer,
    /// The server wants it closed.
    Server(CloseCode),
    /// The peer broke the transport's rules, and is told by this code of the transport.
    Broken(u16),
}

/// Whether the server asks for signs of life here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// It does.
    Server,
    /// Another stream of the connection does.
    Elsewhere,
}

/// Encodes a message of the server's.
pub fn encode(encoding: Encoding, message: &ServerMessage) -> Bytes {
    match encoding {
        Encoding::Json => json::encode(message),
        Encoding::Binary => binary::encode(message),
    }
}

/// Answers to messages, on their way from the reading half to the writing half. When it is full no more is read, so a
/// peer that sends without reading stops itself.
#[derive(Debug, Default)]
struct Replies {
    queue: Mutex<VecDeque<Bytes>>,
    changed: Notify,
}

impl Replies {
    async fn push(&self, reply: Bytes) {
        loop {
            {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                if queue.len() < limits::REPLIES {
                    queue.push_back(reply);
                    self.changed.notify_waiters();
                    return;
                }
            }
            self.changed.notified().await;
        }
    }

    fn drain(&self, out: &mut Vec<Bytes>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        out.extend(queue.drain(..));
        self.changed.notify_waiters();
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    async fn filled(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

/// One duplex of a connection, until either side ends it.
#[derive(Debug)]
pub struct Duplex<'a> {
    connection: &'a Connection,
    encoding: Encoding,
    heartbeat: Heartbeat,
    replies: Replies,
    /// When the peer had last been heard when it was asked for a sign of life, in milliseconds.
    asked: AtomicU64,
}

impl<'a> Duplex<'a> {
    /// A duplex that begins with `greeting`.
    pub fn new(
        connection: &'a Connection,
        encoding: Encoding,
        heartbeat: Heartbeat,
        greeting: &[ServerMessage],
    ) -> Self {
        let queue = greeting.iter().map(|message| encode(encoding, message)).collect();
        let replies = Replies { queue: Mutex::new(queue), changed: Notify::new() };
        Self { connection, encoding, heartbeat, replies, asked: AtomicU64::new(u64::MAX) }
    }

    /// Runs it.
    pub async fn run(&self, feed: &mut Feed, source: &mut impl Source, sink: &mut impl Sink) -> End {
        let handle = feed.handle();
        tokio::select! {
            end = self.receive(&handle, source) => end,
            end = self.send(feed, sink) => end,
            code = self.connection.closed() => End::Server(code),
        }
    }

    async fn receive(&self, feed: &FeedHandle, source: &mut impl Source) -> End {
        loop {
            let incoming = source.next().await;
            self.connection.hear();
            let reply = match incoming {
                Incoming::Message(Ok(message)) => self.connection.execute(feed, message).await,
                Incoming::Message(Err(rejection)) => Some(ServerMessage::Error(rejection)),
                Incoming::Alive => None,
                Incoming::Ended => return End::Peer,
                Incoming::Broken(code) => return End::Broken(code),
            };
            if let Some(reply) = reply {
                self.replies.push(encode(self.encoding, &reply)).await;
            }
        }
    }

    async fn send(&self, feed: &mut Feed, sink: &mut impl Sink) -> End {
        let mut frames = Vec::new();
        let mut deliveries = Vec::new();
        loop {
            self.replies.drain(&mut frames);
            self.connection.read(feed, ReadBudget(limits::BATCH_BYTES), &mut deliveries);
            let counters = self.connection.hub().counters();
            frames.extend(deliveries.drain(..).map(|delivery| delivery.frame(self.encoding, counters)));
            if !frames.is_empty() {
                let sent = tokio::select! {
                    sent = sink.send(&mut frames) => sent,
                    // Who takes nothing cannot be asked either.
                    () = self.silence(limits::HEARTBEAT + limits::HEARTBEAT_DEADLINE) => return self.dead(),
                };
                if sent.is_err() {
                    return End::Peer;
                }
                continue;
            }
            tokio::select! {
                () = self.replies.filled() => {}
                () = self.connection.ready(feed) => {}
                () = self.silence(limits::HEARTBEAT) => {
                    if self.was_asked() {
                        return self.dead();
                    }
                    self.asked.store(self.connection.heard().as_millis() as u64, Ordering::Relaxed);
                    if sink.ping().await.is_err() {
                        return End::Peer;
                    }
                }
            }
        }
    }

    /// Waits until nothing was heard for `patience`, and if the peer was asked, for the deadline of its answer too. For
    /// ever where another stream asks.
    async fn silence(&self, patience: Duration) {
        if self.heartbeat == Heartbeat::Elsewhere {
            return std::future::pending().await;
        }
        loop {
            let patience =
                if self.was_asked() { limits::HEARTBEAT + limits::HEARTBEAT_DEADLINE } else { patience };
            let silent = self.connection.hub().now().since(self.connection.heard());
            let left = patience.saturating_sub(silent);
            if left.is_zero() {
                return;
            }
            time::sleep(left).await;
        }
    }

    /// Whether the peer was asked for a sign of life and has given none since.
    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == self.connection.heard().as_millis() as u64
    }

    fn dead(&self) -> End {
        self.connection.hub().counters().dead_peers.increment();
        End::Server(CloseCode::NoHeartbeat)
    }
}
