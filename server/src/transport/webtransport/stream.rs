//! A session's streams: frames of `fulmar.v1.bin`, each after its length.

use std::{
    collections::VecDeque,
    future::{Future as _, pending},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use bytes::{Buf as _, Bytes, BytesMut};
use fulmar_core::{
    CloseCode, Code, Encoding, Problem, Rejection, ServerMessage,
    codec::{binary, framing::Splitter, varint},
    limits as core_limits,
    webtransport::error_code,
};
use futures_util::future::poll_fn;
use h3::quic::RecvStream as _;
use h3_webtransport::stream::RecvStream;
use tokio::time::{self, Sleep};
use tokio_util::sync::CancellationToken;

use super::{
    backend::{RecvStream as QuicRecv, SessionStream, quic_code},
    session::Session,
};
use crate::{
    budget::Reserved,
    hub::{Feed, Order},
    limits,
    transport::duplex::{self, Duplex, End, Gone, Heartbeat, Incoming},
};

impl Session {
    /// Serves a stream that the client opened.
    pub(super) async fn serve(self: Arc<Self>, stream: Box<SessionStream>, control: bool) {
        self.serve_from(*stream, control, Beginning::default()).await;
    }

    /// Opens the stream for what the client has asked for with its CONNECT, and serves it as one that the client has opened and has
    /// sent these frames on. Waits for credit, which every client gives for a stream at least.
    pub(super) async fn serve_early(self: Arc<Self>, frames: Bytes) {
        let opened = tokio::select! {
            opened = SessionStream::open(&self.quic, self.id) => opened,
            () = self.ended.cancelled() => return,
        };
        let Ok((stream, sent)) = opened else { return };
        self.serve_from(stream, false, Beginning { sent, received: frames }).await;
    }

    async fn serve_from(&self, stream: SessionStream, control: bool, beginning: Beginning) {
        let SessionStream { send, recv, .. } = stream;
        let heartbeat = if control { Heartbeat::Server } else { Heartbeat::Elsewhere };
        if control {
            let _ = send.set_priority(1);
        }
        let feed = Feed::new(Order::BesideDatagrams);
        let mut feed = if control { feed } else { feed.apart() };
        let duplex = Duplex::new(&self.connection, Encoding::Binary, heartbeat, &[]);
        let mut source = Frames::new(recv, self, &beginning.received);
        match &self.attached {
            Some(attached) if control => source.answered = Some(attached),
            attached => source.waits = attached.as_ref(),
        }
        let mut sink = Outgoing { send, pending: BytesMut::from(beginning.sent.as_slice()) };
        let end = tokio::select! {
            end = duplex.run(&mut feed, &mut source, &mut sink) => end,
            () = self.ended.cancelled() => End::Server(CloseCode::SessionExpired),
        };
        Box::pin(self.finish(end, control, &feed, &mut source, &mut sink)).await;
    }

    /// Waits until the control stream's first frame has been answered. If that does not come, the session closes.
    async fn turn(&self, attached: &CancellationToken) {
        // Its packets may have been lost on a bad path: it is for the client to come back.
        if time::timeout(limits::ATTACH_DEADLINE, attached.cancelled()).await.is_err() {
            self.connection.close(CloseCode::NoHeartbeat);
            pending().await
        }
    }

    /// Ends a stream.
    async fn finish(
        &self,
        end: End,
        control: bool,
        feed: &Feed,
        source: &mut Frames<'_>,
        sink: &mut Outgoing,
    ) {
        let code = match end {
            End::Peer if source.late => {
                self.connection.end_feed(feed);
                source.abandon(error_code::to_http3(u32::from(CloseCode::ProtocolError.code())));
                sink.abandon(error_code::to_http3(u32::from(CloseCode::ProtocolError.code())));
                None
            }
            // The client ended the stream; had it lost the connection, its subscriptions would wait for it.
            End::Peer => {
                if self.quic.close_reason().is_none() && !self.ended.is_cancelled() {
                    self.connection.end_feed(feed);
                }
                None
            }
            End::Broken(_) => {
                self.connection.close(CloseCode::ProtocolError);
                Some(CloseCode::ProtocolError)
            }
            End::Server(code) => Some(code),
        };
        if control {
            if let Some(code) = code.filter(|_| !self.ended.is_cancelled()) {
                let mut frames = VecDeque::from([binary::encode(&self.connection.close_message(code))]);
                let told = duplex::Sink::send(sink, &mut frames);
                let _ = time::timeout(limits::CLOSE_DEADLINE / 4, told).await;
                self.told.cancel();
                self.connection.close(code);
                self.ended.cancelled().await;
            }
            // From now on nothing can be told in-band.
            self.told.cancel();
        }
        if code.is_some() {
            self.ended.cancelled().await;
            source.abandon(error_code::SESSION_GONE);
            if !control {
                sink.abandon(error_code::SESSION_GONE);
            }
        }
        // What was written last on the control stream still arrives.
        let _ = sink.send.finish();
    }
}

/// What went over a stream before it is served, as far as both sides are concerned.
#[derive(Default)]
struct Beginning {
    /// Sent, or to be sent before all else.
    sent: Vec<u8>,
    /// Received, in whole frames.
    received: Bytes,
}

/// Reads length-prefixed frames off a stream.
struct Frames<'a> {
    recv: RecvStream<QuicRecv, Bytes>,
    splitter: Splitter,
    session: &'a Session,
    /// What the present frame has of the budget. Small frames need nothing of it.
    reserved: Option<Reserved>,
    /// When the present frame has to be whole.
    deadline: Option<Pin<Box<Sleep>>>,
    /// After a frame that cannot be passed over, nothing on the stream makes sense.
    broken: bool,
    /// A frame was not whole in time.
    late: bool,
    /// Told that the first frame has been answered, which is so when the next is asked for.
    answered: Option<&'a CancellationToken>,
    /// The first frame has been asked for.
    begun: bool,
    /// Told that the stream may be read.
    waits: Option<&'a CancellationToken>,
}

/// What a buffer says of the frame at its front.
enum Front {
    /// It is not here yet; its length, if that is.
    Begun(Option<usize>),
    Whole(Incoming),
    TooLong,
}

impl<'a> Frames<'a> {
    fn new(recv: QuicRecv, session: &'a Session, received: &[u8]) -> Self {
        let mut splitter = Splitter::new(core_limits::MESSAGE_BYTES);
        splitter.push(received);
        Self {
            recv: RecvStream::new(h3::stream::BufRecvStream::new(recv)),
            splitter,
            session,
            reserved: None,
            deadline: None,
            broken: false,
            late: false,
            answered: None,
            begun: false,
            waits: None,
        }
    }

    fn front(&mut self) -> Front {
        match self.splitter.take() {
            Ok(Some(frame)) => Front::Whole(incoming(&frame)),
            Ok(None) => Front::Begun(self.splitter.begun()),
            Err(_) => Front::TooLong,
        }
    }

    /// Reads on. `false` when nothing more comes, or not in time.
    async fn read(&mut self) -> bool {
        if let Some(attached) = self.waits.take() {
            Box::pin(self.session.turn(attached)).await;
        }
        let begun = !self.splitter.is_empty();
        if begun && self.deadline.is_none() {
            self.deadline = Some(Box::pin(time::sleep(limits::FRAME_DEADLINE)));
        }
        let read = poll_fn(|cx| {
            if let Poll::Ready(read) = self.recv.poll_data(cx) {
                return Poll::Ready(read.ok().flatten());
            }
            self.late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
            if self.late { Poll::Ready(None) } else { Poll::Pending }
        });
        let Some(bytes) = read.await else { return false };
        self.splitter.push(&bytes);
        true
    }

    fn abandon(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }
}

impl duplex::Source for Frames<'_> {
    async fn next(&mut self) -> Incoming {
        if std::mem::replace(&mut self.begun, true)
            && let Some(answered) = self.answered.take()
        {
            answered.cancel();
        }
        loop {
            if self.broken {
                return Incoming::Broken(CloseCode::ProtocolError.code());
            }
            match self.front() {
                Front::Whole(incoming) => {
                    (self.reserved, self.deadline) = (None, None);
                    return incoming;
                }
                Front::TooLong => {
                    self.broken = true;
                    let message = format!("a frame has at most {} bytes", core_limits::MESSAGE_BYTES);
                    let problem = Problem::new(Code::MessageTooLarge, message);
                    return Incoming::Message(Err(Rejection::from(problem)));
                }
                Front::Begun(Some(length)) if length > limits::SMALL_FRAME && self.reserved.is_none() => {
                    self.reserved = Some(Box::pin(self.session.unfinished.reserve(length)).await);
                }
                Front::Begun(_) => {}
            }
            if !self.read().await {
                return Incoming::Ended;
            }
        }
    }
}

fn incoming(frame: &[u8]) -> Incoming {
    if !binary::is_ack(frame) {
        return Incoming::Message(binary::decode(frame));
    }
    match binary::decode_ack(frame) {
        Ok(ack) => Incoming::Acknowledged(ack.newest),
        Err(problem) => Incoming::Message(Err(problem.into())),
    }
}

/// Writes length-prefixed frames to a stream.
struct Outgoing {
    send: quinn::SendStream,
    /// What is left of frames whose write was given up half-way; without it the stream would make no sense.
    pending: BytesMut,
}

impl Outgoing {
    fn abandon(&mut self, code: u64) {
        let _ = self.send.reset(quic_code(code));
    }
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
            let written = self.send.write(&self.pending).await.map_err(|error| {
                if let quinn::WriteError::Stopped(code) = error {
                    let code = error_code::from_http3(code.into_inner());
                    tracing::trace!(?code, "the client reads no more of a stream");
                }
                Gone
            })?;
            self.pending.advance(written);
        }
        // An idle stream keeps no buffer.
        self.pending = BytesMut::new();
        Ok(())
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.send(&mut VecDeque::from([binary::encode(&ServerMessage::Ping { r#ref: None })])).await
    }
}
