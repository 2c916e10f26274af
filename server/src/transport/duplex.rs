//! What WebSocket and a WebTransport stream have in common: messages in, frames out, both at once.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use fulmar_core::{ClientMessage, CloseCode, Encoding, Rejection, ServerMessage, codec};
use tokio::{
    sync::Notify,
    time::{self, Sleep},
};

use super::outlet::Outlet;
use crate::{
    hub::{Answers, Connection, Feed, FeedHandle, ReadBudget},
    limits,
};

/// What came from the peer.
#[derive(Debug)]
pub enum Incoming {
    /// A message, or what was wrong with it.
    Message(Result<ClientMessage, Rejection>),
    /// Frames of values up to this number have arrived.
    Acknowledged(u64),
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
    /// Writes frames, in order, and returns when the transport has taken them. Those that it has are no longer in `frames`
    /// if the future is dropped before; the next call goes on where it was.
    ///
    /// # Errors
    /// [`Gone`] when the transport takes nothing any more.
    fn send(&mut self, frames: &mut VecDeque<Bytes>) -> impl Future<Output = Result<(), Gone>> + Send;

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

/// Answers to messages, on their way from the reading half to the writing half. When it is full no more is read, so a
/// peer that sends without reading stops itself.
#[derive(Debug, Default)]
struct Replies {
    queue: Mutex<VecDeque<Bytes>>,
    changed: Notify,
}

impl Replies {
    /// Waits until there is room for a reply.
    async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            if self.queue.lock().unwrap_or_else(PoisonError::into_inner).len() < limits::REPLIES {
                return;
            }
            changed.await;
        }
    }

    fn push(&self, reply: Bytes) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(reply);
        self.changed.notify_waiters();
    }

    fn drain(&self, out: &mut VecDeque<Bytes>) {
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
    /// When it last took what had had to wait for it, in milliseconds.
    taken: AtomicU64,
    /// Of the TCP connection, if there is one.
    outlet: Option<Outlet>,
}

impl<'a> Duplex<'a> {
    /// A duplex that begins with `greeting`.
    pub fn new(
        connection: &'a Connection,
        encoding: Encoding,
        heartbeat: Heartbeat,
        greeting: &[ServerMessage],
    ) -> Self {
        let queue = greeting.iter().map(|message| codec::encode(encoding, message)).collect();
        let replies = Replies { queue: Mutex::new(queue), changed: Notify::new() };
        Self {
            connection,
            encoding,
            heartbeat,
            replies,
            asked: AtomicU64::new(u64::MAX),
            taken: AtomicU64::new(0),
            outlet: None,
        }
    }

    /// Over this connection: who takes some of a write lives, though it takes long for all of it.
    pub fn over(mut self, outlet: Option<Outlet>) -> Self {
        self.outlet = outlet;
        self
    }

    /// Runs it.
    pub async fn run(&self, feed: &mut Feed, source: &mut impl Source, sink: &mut impl Sink) -> End {
        let (handle, mut frames) = (feed.handle(), VecDeque::new());
        let end = tokio::select! {
            end = self.receive(&handle, source) => end,
            end = self.send(feed, &mut frames, sink) => end,
            code = self.connection.closed() => End::Server(code),
        };
        if end == End::Peer {
            // Who sends a message and nothing more still gets its answer.
            self.replies.drain(&mut frames);
            let _ = time::timeout(limits::CLOSE_DEADLINE / 3, sink.send(&mut frames)).await;
        }
        end
    }

    async fn receive(&self, feed: &FeedHandle, source: &mut impl Source) -> End {
        loop {
            let incoming = source.next().await;
            self.connection.hear();
            // Before the message is carried out: its answer must stand in line before anything that follows from it.
            self.replies.room().await;
            let replies = match incoming {
                // Boxed, since a connection waits for messages most of the time, and not for their answers.
                Incoming::Message(Ok(message)) => Box::pin(self.connection.execute(feed, message)).await,
                Incoming::Message(Err(rejection)) => ServerMessage::Error(rejection).into(),
                Incoming::Acknowledged(number) => {
                    self.connection.acknowledge_stream(feed, number);
                    Answers::default()
                }
                Incoming::Alive => Answers::default(),
                Incoming::Ended => return End::Peer,
                Incoming::Broken(code) => return End::Broken(code),
            };
            for reply in replies {
                self.replies.push(codec::encode(self.encoding, &reply));
            }
        }
    }

    async fn send(&self, feed: &mut Feed, frames: &mut VecDeque<Bytes>, sink: &mut impl Sink) -> End {
        let mut deliveries = Vec::new();
        let mut pulse = Pulse { duplex: self, timer: None };
        loop {
            if self.is_due() {
                self.asked.store(millis(self.connection.heard()), Ordering::Relaxed);
                if let Err(end) = self.survive(pin!(sink.ping()), &mut pulse).await {
                    return end;
                }
            }
            self.replies.drain(frames);
            self.connection.read(feed, ReadBudget(limits::BATCH_BYTES), &mut deliveries);
            let counters = self.connection.hub().counters();
            frames.extend(deliveries.drain(..).map(|delivery| delivery.frame(self.encoding, counters)));
            if !frames.is_empty() {
                if let Err(end) = self.survive(pin!(sink.send(frames)), &mut pulse).await {
                    return end;
                }
                continue;
            }
            // An idle connection keeps no room for what it has sent.
            (deliveries, *frames) = Default::default();
            tokio::select! {
                () = self.replies.filled() => {}
                () = feed.ready() => {}
                beat = poll_fn(|cx| pulse.poll(cx)) => match beat {
                    Beat::Due => {}
                    Beat::Dead => return self.dead(),
                },
            }
        }
    }

    /// Waits for a write, as long as the peer lives. One that had to wait and then went through is a sign of life: the
    /// peer takes what it is sent, if slowly.
    async fn survive(
        &self,
        mut write: Pin<&mut impl Future<Output = Result<(), Gone>>>,
        pulse: &mut Pulse<'_>,
    ) -> Result<(), End> {
        let mut waited = false;
        let progress = || self.outlet.as_ref().map_or(0, Outlet::progress);
        let mut before = progress();
        let written = poll_fn(|cx| {
            if let Poll::Ready(written) = write.as_mut().poll(cx) {
                return Poll::Ready(Some(written));
            }
            waited = true;
            let now = progress();
            if now > before {
                before = now;
                self.take();
            }
            pulse.poll_death(cx).map(|()| None)
        });
        let Some(written) = written.await else { return Err(self.dead()) };
        if waited {
            self.take();
        }
        written.map_err(|Gone| End::Peer)
    }

    fn take(&self) {
        self.taken.store(millis(self.connection.hub().now().monotonic), Ordering::Relaxed);
    }

    /// Whether the peer has been silent for so long that it is to be asked.
    fn is_due(&self) -> bool {
        self.until_due().is_some_and(|left| left.is_zero())
    }

    /// How long until the peer is to be asked for a sign of life. `None` for one that was asked already, and is not asked
    /// again before it was heard, and where another stream asks.
    fn until_due(&self) -> Option<Duration> {
        let heard = self.connection.heard();
        let asked = self.asked.load(Ordering::Relaxed) == millis(heard);
        (self.heartbeat == Heartbeat::Server && !asked)
            .then(|| limits::HEARTBEAT.saturating_sub(self.since(heard)))
    }

    /// How long until the peer has shown no life for so long that it is gone. `None` where another stream asks.
    fn until_death(&self) -> Option<Duration> {
        if self.heartbeat == Heartbeat::Elsewhere {
            return None;
        }
        let taken = Duration::from_millis(self.taken.load(Ordering::Relaxed));
        let silent = self.since(self.connection.heard().max(taken));
        Some((limits::HEARTBEAT + limits::HEARTBEAT_DEADLINE).saturating_sub(silent))
    }

    fn dead(&self) -> End {
        self.connection.hub().counters().dead_peers.increment();
        End::Server(CloseCode::NoHeartbeat)
    }

    fn since(&self, moment: Duration) -> Duration {
        self.connection.hub().now().since(moment)
    }
}

/// Watches the peer's silence while its connection waits, with one timer.
struct Pulse<'a> {
    duplex: &'a Duplex<'a>,
    /// When it goes off, on the node's monotonic clock.
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
}

enum Beat {
    /// The peer is to be asked for a sign of life.
    Due,
    /// The peer is gone.
    Dead,
}

impl Pulse<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Beat> {
        loop {
            let Some(death) = self.duplex.until_death() else { return Poll::Pending };
            if death.is_zero() {
                return Poll::Ready(Beat::Dead);
            }
            let due = self.duplex.until_due();
            if due.is_some_and(|left| left.is_zero()) {
                return Poll::Ready(Beat::Due);
            }
            ready!(self.sleep(due.unwrap_or(death).min(death), cx));
        }
    }

    fn poll_death(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(left) = self.duplex.until_death() else { return Poll::Pending };
            if left.is_zero() {
                return Poll::Ready(());
            }
            ready!(self.sleep(left, cx));
        }
    }

    /// Waits for so long at most. A timer that goes off early costs a look at the clock; one that is begun anew at every
    /// look would cost more, so one that runs is left to run if it does not come too late.
    fn sleep(&mut self, left: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let wanted = self.duplex.connection.hub().now().monotonic + left;
        let runs = |(at, timer): &(Duration, Pin<Box<Sleep>>)| *at <= wanted && !timer.is_elapsed();
        if !self.timer.as_ref().is_some_and(runs) {
            self.timer = Some((wanted, Box::pin(time::sleep(left))));
        }
        self.timer.as_mut().map_or(Poll::Pending, |(_, timer)| timer.as_mut().poll(cx))
    }
}

fn millis(moment: Duration) -> u64 {
    moment.as_millis() as u64
}
