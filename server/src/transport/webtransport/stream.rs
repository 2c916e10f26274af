//! A session's streams: frames of `fulmar.v1.bin`, each after its length.

use std::{collections::VecDeque, future::Future as _, pin::Pin, sync::Arc, task::Poll};

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
    budget::{Budget, Reserved},
    hub::{Feed, Order},
    limits,
    transport::duplex::{self, Duplex, End, Gone, Heartbeat, Incoming},
};

impl Session {
    /// Serves a stream that the client opened.
    pub(super) async fn serve(self: Arc<Self>, stream: Box<SessionStream>, control: bool) {
        let SessionStream { send, recv, .. } = *stream;
        let heartbeat = if control { Heartbeat::Server } else { Heartbeat::Elsewhere };
        if control {
            let _ = send.set_priority(1);
        }
        let feed = Feed::new(Order::BesideDatagrams);
        let mut feed = if control { feed } else { feed.apart() };
        let duplex = Duplex::new(&self.connection, Encoding::Binary, heartbeat, &[]);
        let mut source = Frames::new(recv, &self.unfinished);
        source.answered = self.attached.as_ref().filter(|_| control);
        let mut sink = Outgoing { send, pending: BytesMut::new() };
        let run = async {
            if let Some(attached) = self.attached.as_ref().filter(|_| !control)
                && let Err(code) = Box::pin(self.turn(attached)).await
            {
                return End::Server(code);
            }
            duplex.run(&mut feed, &mut source, &mut sink).await
        };
        let end = tokio::select! {
            end = run => end,
            () = self.ended.cancelled() => End::Server(CloseCode::SessionExpired),
        };
        Box::pin(self.finish(end, control, &feed, &mut source, &mut sink)).await;
    }

    /// Waits until the control stream's first frame has been answered, and reads nothing meanwhile.
    async fn turn(&self, attached: &CancellationToken) -> Result<(), CloseCode> {
        tokio::select! {
            () = attached.cancelled() => Ok(()),
            code = self.connection.closed() => Err(code),
            // Its packets may have been lost on a bad path: it is for the client to come back.
            () = time::sleep(limits::ATTACH_DEADLINE) => {
                self.connection.close(CloseCode::NoHeartbeat);
                Err(CloseCode::NoHeartbeat)
            }
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

/// Reads length-prefixed frames off a stream.
struct Frames<'a> {
    recv: RecvStream<QuicRecv, Bytes>,
    splitter: Splitter,
    unfinished: &'a Budget,
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
}

/// What a buffer says of the frame at its front.
enum Front {
    /// It is not here yet; its length, if that is.
    Begun(Option<usize>),
    Whole(Incoming),
    TooLong,
}

impl<'a> Frames<'a> {
    fn new(recv: QuicRecv, unfinished: &'a Budget) -> Self {
        Self {
            recv: RecvStream::new(h3::stream::BufRecvStream::new(recv)),
            splitter: Splitter::new(core_limits::MESSAGE_BYTES),
            unfinished,
            reserved: None,
            deadline: None,
            broken: false,
            late: false,
            answered: None,
            begun: false,
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
                    self.reserved = Some(Box::pin(self.unfinished.reserve(length)).await);
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
