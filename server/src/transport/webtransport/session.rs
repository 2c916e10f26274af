//! One WebTransport session: its CONNECT stream and its datagrams.

#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fulmar_core::{
    CloseCode, Encoding,
    codec::{binary, framing, varint},
    datagrams::Path,
    webtransport::capsule::{self, Capsule, Capsules},
};
use futures_util::FutureExt as _;
use http::{HeaderValue, Response};
use tokio::{task::AbortHandle, time};
use tokio_util::sync::CancellationToken;

use super::requests::{BodyReceiver, RequestStream, ResponseSender};
use crate::{
    budget::Budget,
    hub::{Connection, DatagramBatch, Delivery, Feed, FeedEnd, ReadBudget},
    limits,
};

/// What is read at once to be packed into datagrams, in bytes: little, since it ages while datagrams wait for room.
const DATAGRAM_BATCH: usize = 4 * 1024;

/// A session of a QUIC connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) quic: quinn::Connection,
    pub(super) connection: Connection,
    /// What each of its datagrams begins with: a quarter of the session's id. RFC 9297, section 2.1.
    prefix: Vec<u8>,
    /// What its streams may hold together of frames that are not yet whole.
    pub(super) unfinished: Budget,
    /// Whether the control stream, the first, is there.
    controlled: AtomicBool,
    /// The first frame of the control stream has been answered. Only where the other streams wait for that, since the client
    /// has promised that it is an `attach`.
    pub(super) attached: Option<CancellationToken>,
    /// The client has been told in-band that the session closes.
    pub(super) told: CancellationToken,
    pub(super) ended: CancellationToken,
    /// The server is about to stop.
    stop: CancellationToken,
}

/// The stream that made a session, in its two halves.
pub(super) struct Connect(Box<(ResponseSender, BodyReceiver)>);

/// The task that sends a session's datagrams, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Sending(pub(super) AbortHandle);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

thread_local! {
    /// What sessions read into, one after the other: memory that is at hand for the processor, and none that an idle session keeps.
    static BATCH: Cell<Option<Box<DatagramBatch>>> = const { Cell::new(None) };
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// When it is to be asked for anew, on the node's monotonic clock.
    until: Duration,
    room: usize,
    window: usize,
    rtt: Duration,
}

/// A datagram of signals.
struct Signals {
    packet: Bytes,
    /// When the first of them is late, on the node's monotonic clock.
    expires: Option<Duration>,
    count: u64,
}

/// What ends the first phase of a session.
enum Turn {
    /// The client is gone or done.
    Over,
    /// The server wants it closed.
    Close(CloseCode),
    /// The server is about to stop, and the session goes on.
    Drain,
}

impl Connect {
    pub(super) fn new(stream: RequestStream) -> Self {
        Self(Box::new(stream.split()))
    }

    /// Accepts the session. Says whether its client could be told.
    pub(super) async fn accept(&mut self) -> bool {
        let mut response = Response::new(());
        // The version of the draft, which Chromium looks for.
        response.headers_mut().insert("sec-webtransport-http3-draft", HeaderValue::from_static("draft02"));
        let accepting = Box::pin(time::timeout(limits::HEADER_DEADLINE, self.0.0.send_response(response)));
        matches!(accepting.await, Ok(Ok(())))
    }

    /// Sends a capsule, if the client takes it in time.
    async fn tell(&mut self, capsule: Bytes) {
        let _ = time::timeout(limits::CLOSE_DEADLINE / 4, self.0.0.send_data(capsule)).await;
    }

    /// Waits until the client closes the session: by capsule, by ending the stream, or by breaking its rules.
    async fn client_closes(&mut self, capsules: &mut Capsules) {
        while let Ok(Some(bytes)) = self.0.1.recv_data().await {
            capsules.push(bytes);
            match capsules.take() {
                Ok(None) => {}
                Ok(Some(Capsule::Close { code, reason })) => {
                    tracing::debug!(code, reason, "the client closed its session");
                    return;
                }
                Err(_) => return,
            }
        }
    }
}

impl Session {
    /// A session, and what gives its datagrams.
    pub(super) fn new(
        id: u64,
        quic: quinn::Connection,
        connection: Connection,
        attaches: bool,
        stop: CancellationToken,
    ) -> (Arc<Self>, Feed) {
        let mut prefix = Vec::new();
        varint::write(&mut prefix, id / 4);
        let (connection, datagrams) = connection.with_datagrams();
        let unfinished = Budget::new(limits::SESSION_UNFINISHED_BYTES);
        let (controlled, told, ended) = Default::default();
        let attached = attaches.then(CancellationToken::new);
        let session =
            Self { id, quic, connection, prefix, unfinished, controlled, attached, told, ended, stop };
        (Arc::new(session), datagrams)
    }

    /// Whether its control stream is there.
    pub(super) fn has_control(&self) -> bool {
        self.controlled.load(Ordering::Relaxed)
    }

    /// Whether a stream is its control stream: the first that asks.
    pub(super) fn claim_control(&self) -> bool {
        !self.controlled.swap(true, Ordering::Relaxed)
    }

    /// Runs the session on its CONNECT stream until either side closes it, which ends `sending`, what sends its datagrams.
    pub(super) async fn run(self: Arc<Self>, mut connect: Connect, sending: Sending) {
        let mut capsules = Capsules::default();
        let mut draining = false;
        let closed = loop {
            let turn = tokio::select! {
                () = connect.client_closes(&mut capsules) => Turn::Over,
                code = self.connection.closed() => Turn::Close(code),
                // The control stream asks for signs of life; this holds for sessions that have none too.
                () = self.connection.silence(limits::HEARTBEAT + limits::HEARTBEAT_DEADLINE) => {
                    self.connection.close(CloseCode::NoHeartbeat);
                    Turn::Close(CloseCode::NoHeartbeat)
                }
                () = self.stop.cancelled(), if !draining => Turn::Drain,
            };
            match turn {
                Turn::Over => break None,
                Turn::Close(code) => break Some(code),
                Turn::Drain => {
                    draining = true;
                    Box::pin(connect.tell(capsule::drain())).await;
                }
            }
        };
        drop(sending);
        Box::pin(self.close(connect, capsules, closed)).await;
    }

    /// The closing handshake: in-band on the control stream, then the capsule, then the end of the CONNECT stream; the other
    /// streams end last.
    async fn close(&self, mut connect: Connect, mut capsules: Capsules, closed: Option<CloseCode>) {
        if let Some(code) = closed {
            let mut is_closed = false;
            if self.has_control() {
                let _ = time::timeout(limits::CLOSE_DEADLINE / 4, self.told.cancelled()).await;
                // Who was told may close first: a page of Chromium 156 crashes where a server closes a session that has streams.
                is_closed =
                    time::timeout(limits::CLOSE_LINGER, connect.client_closes(&mut capsules)).await.is_ok();
            }
            if !is_closed {
                connect.tell(capsule::close(u32::from(code.code()), code.reason())).await;
            }
        }
        let _ = time::timeout(limits::CLOSE_DEADLINE / 4, connect.0.0.finish()).await;
        if let Some(code) = closed {
            // The client takes note of the capsule, and ends its side.
            let _ = time::timeout(limits::close_deadline(code), connect.client_closes(&mut capsules)).await;
        }
        // Not before: Chromium 156 crashes the page whose session is closed while the ends of its streams come.
        self.ended.cancel();
    }

    /// Sends state and signals by datagram until its task is aborted. A task of its own, since whatever wakes a task makes it look at
    /// all that it waits for.
    pub(super) async fn send_datagrams(self: Arc<Self>, feed: Feed) {
        let (mut known, mut waiting) = (Known::default(), feed.wait());
        // Moved from one deadline to the next, which costs much less than a new one for each.
        let mut alarm = pin!(time::sleep(Duration::ZERO));
        loop {
            let mut batch = BATCH.take().unwrap_or_default();
            let path = |now, under_way| self.path(&mut known, now, under_way);
            let (end, next) =
                self.connection.read_datagrams(&feed, path, ReadBudget(DATAGRAM_BATCH), &mut batch);
            // Before the signals, which may wait for room: what was put into packets would age.
            for packet in batch.effects.packets.drain(..) {
                let sent = match self.send_at_once(packet) {
                    Ok(sent) => sent,
                    Err(packet) => Box::pin(self.send_datagram(packet)).await,
                };
                match sent {
                    Ok(()) => {}
                    // The path has shrunk since its size was asked for. What was in it will be missed, and comes anew.
                    Err(quinn::SendDatagramError::TooLarge) => known = Known::default(),
                    // The path takes no datagrams at all: values go by stream.
                    Err(_) => break,
                }
            }
            if !batch.signals.is_empty() {
                Box::pin(self.send_signals(&mut batch.signals)).await;
            }
            BATCH.set(Some(batch));
            if end == FeedEnd::More {
                continue;
            }
            if let Some(next) = next {
                alarm.as_mut().reset(self.connection.hub().instant(next));
            }
            poll_fn(|cx| {
                if waiting.poll(cx.waker()).is_ready() {
                    return Poll::Ready(());
                }
                // Each time, though it may know whom to wake: one that went off while it was moved has forgotten.
                if next.is_some() { alarm.as_mut().poll(cx) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// What the sender of values has to know of the path, on which so many bytes are under way.
    fn path(&self, known: &mut Known, now: Duration, under_way: usize) -> Path<'_> {
        // quinn has it in places that are cold by now, and it matters little while there is room.
        if now >= known.until || under_way > known.window / 2 {
            let path = self.quic.stats().path;
            let window = usize::try_from(path.cwnd).unwrap_or(usize::MAX);
            *known = Known {
                until: now + limits::PATH_KNOWN,
                room: self.quic.max_datagram_size().unwrap_or(0),
                window: window / 8 * limits::DATAGRAM_WINDOW_EIGHTHS,
                rtt: path.rtt,
            };
        }
        let Known { room, window, rtt, .. } = *known;
        // Not more than quinn keeps, so that no packet waits here and ages.
        let burst = limits::DATAGRAM_SEND_BUFFER;
        Path { prefix: &self.prefix, room, window, burst, rtt }
    }

    /// Takes a datagram of the client's, without the session's prefix. It holds acknowledgements; anything else is of a later
    /// version.
    pub(super) fn take_datagram(&self, datagram: &[u8]) {
        let frames = framing::split_datagram(datagram).unwrap_or_default();
        // One is enough for an honest client.
        match frames.into_iter().find_map(|frame| binary::decode_ack(frame).ok()) {
            Some(ack) => self.connection.acknowledge(ack),
            None => self.connection.hear(),
        }
    }

    /// Packs signals into as few datagrams as hold them. Those that do not fit are dropped.
    fn pack(&self, deliveries: &mut Vec<Delivery>) -> Vec<Signals> {
        let mut packets = Vec::new();
        let counters = self.connection.hub().counters();
        let room = self.quic.max_datagram_size().unwrap_or(0);
        let mut packet = BytesMut::new();
        let (mut expires, mut count) = (None, 0);
        let mut length = Vec::with_capacity(8);
        for delivery in deliveries.drain(..) {
            let frame = delivery.frame(Encoding::Binary, counters);
            length.clear();
            varint::write(&mut length, frame.len() as u64);
            let needed = length.len() + frame.len();
            if self.prefix.len() + needed > room {
                counters.signals_oversize.increment();
                continue;
            }
            if !packet.is_empty() && packet.len() + needed > room {
                packets.push(Signals { packet: packet.split().freeze(), expires, count });
                (expires, count) = (None, 0);
            }
            count += 1;
            expires = expires.into_iter().chain(delivery.expires()).min();
            if packet.is_empty() {
                packet.reserve(self.prefix.len() + needed);
                packet.extend_from_slice(&self.prefix);
            }
            packet.extend_from_slice(&length);
            packet.extend_from_slice(&frame);
        }
        if !packet.is_empty() {
            packets.push(Signals { packet: packet.freeze(), expires, count });
        }
        packets
    }

    /// Sends signals when there is room for them, or drops them: they are never late.
    async fn send_signals(&self, deliveries: &mut Vec<Delivery>) {
        let counters = self.connection.hub().counters();
        for Signals { packet, expires, count } in self.pack(deliveries) {
            let now = self.connection.hub().now();
            let patience = expires.map_or(limits::HEARTBEAT, |expires| expires.saturating_sub(now.monotonic));
            // One that does not fit any more since the path has shrunk is lost as if on its way.
            if time::timeout(patience, self.send_datagram(packet)).await.is_err() {
                counters.signals_expired.add(count);
            }
        }
    }

    /// Sends a datagram, or gives it back where there is no room yet.
    fn send_at_once(&self, packet: Bytes) -> Result<Result<(), quinn::SendDatagramError>, Bytes> {
        let same = packet.clone();
        self.send_datagram(packet).now_or_never().ok_or(same)
    }

    /// Waits for room instead of pushing out what waits already.
    fn send_datagram(&self, packet: Bytes) -> impl Future<Output = Result<(), quinn::SendDatagramError>> {
        let counters = self.connection.hub().counters();
        let sending = self.quic.send_datagram_wait(packet);
        async move {
            sending.await?;
            counters.datagrams.increment();
            Ok(())
        }
    }
}
