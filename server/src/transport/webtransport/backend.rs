//! Our `h3::quic` backend over quinn.
//!
//! It stands between quinn and h3 to see every incoming bidirectional stream first: one that begins with the
//! WebTransport signal value goes to its session and never into h3, which would wait for it before the next stream and
//! keep a record of it for the connection's life. Unidirectional streams of a session are refused here too: the
//! protocol has none, and h3 would hold one until more of it comes than its header. All accepting is polled from the
//! one task that drives the connection.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use fulmar_core::codec::varint;
use futures_util::{Stream, StreamExt as _, stream};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::{ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;

use super::gauge::{Gauge, TooLong};
use crate::limits;

/// What a bidirectional stream of a session begins with, before the session's id.
const WEBTRANSPORT_STREAM: u64 = 0x41;
/// What a unidirectional one begins with.
const WEBTRANSPORT_UNI_STREAM: u64 = 0x54;
/// The control stream's type. RFC 9114, section 6.2.1.
const CONTROL_STREAM: u64 = 0x00;
/// The longest beginning of a stream: two integers.
const HEAD: usize = 16;
/// What one read of a stream takes at most.
const CHUNK: usize = 4096;

type Accepting<T> = Pin<Box<dyn Stream<Item = Result<T, quinn::ConnectionError>> + Send + Sync>>;
type Bidi = (quinn::SendStream, quinn::RecvStream);

/// A QUIC connection as h3 sees it.
pub(super) struct Backend {
    quic: quinn::Connection,
    incoming_bidi: Accepting<Bidi>,
    incoming_uni: Accepting<quinn::RecvStream>,
    opener: Opener,
    /// Streams that have not said yet what they are. Bounded by the credit that the client has.
    undecided: Vec<Undecided>,
    undecided_uni: Vec<Head>,
    /// Streams of sessions, for [`Self::next_session_stream`].
    session_streams: VecDeque<SessionStream>,
    /// The connection's age, told by its driver.
    age: Duration,
}

/// A stream that a client opened for a session.
pub(super) struct SessionStream {
    pub(super) session: u64,
    pub(super) send: quinn::SendStream,
    pub(super) recv: RecvStream,
}

impl SessionStream {
    /// Refuses a stream of a session that is not here. draft-ietf-webtrans-http3-02, section 4.4.
    pub(super) fn refuse(&mut self) {
        const BUFFERED_STREAM_REJECTED: u32 = 0x3994_bd84;
        let code = VarInt::from_u32(BUFFERED_STREAM_REJECTED);
        let _ = self.send.reset(code);
        let _ = self.recv.stream.stop(code);
    }
}

struct Undecided {
    send: quinn::SendStream,
    head: Head,
}

/// The beginning of a stream, as far as it has come.
struct Head {
    recv: quinn::RecvStream,
    bytes: [u8; HEAD],
    length: usize,
    since: Duration,
}

enum Decision {
    Request(Bytes),
    Session(u64, Bytes),
    Broken,
}

impl Backend {
    pub(super) fn new(quic: quinn::Connection) -> Self {
        let incoming_bidi =
            Box::pin(stream::unfold(quic.clone(), async |quic| Some((quic.accept_bi().await, quic))));
        let incoming_uni =
            Box::pin(stream::unfold(quic.clone(), async |quic| Some((quic.accept_uni().await, quic))));
        Self {
            opener: Opener::new(quic.clone()),
            quic,
            incoming_bidi,
            incoming_uni,
            undecided: Vec::new(),
            undecided_uni: Vec::new(),
            session_streams: VecDeque::new(),
            age: Duration::ZERO,
        }
    }

    /// A stream of a session, if one was found while requests were accepted.
    pub(super) fn next_session_stream(&mut self) -> Option<SessionStream> {
        self.session_streams.pop_front()
    }

    /// Gives up on streams that did not say in time what they are.
    pub(super) fn expire(&mut self, age: Duration) {
        self.age = age;
        self.undecided.retain_mut(|it| {
            let keep = it.head.is_young(age);
            if !keep {
                refuse(&mut it.send, &mut it.head.recv, Code::H3_REQUEST_REJECTED);
            }
            keep
        });
        // Dropping one stops it.
        self.undecided_uni.retain(|head| head.is_young(age));
    }
}

impl Undecided {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        loop {
            let head = self.head.bytes();
            if let Some((kind, after)) = varint::read(head) {
                if kind != WEBTRANSPORT_STREAM {
                    return Poll::Ready(Decision::Request(Bytes::copy_from_slice(head)));
                }
                if let Some((session, length)) = varint::read(&head[after..]) {
                    let rest = Bytes::copy_from_slice(&head[after + length..]);
                    return Poll::Ready(Decision::Session(session, rest));
                }
            }
            if ready!(self.head.poll_more(cx)).is_none() {
                return Poll::Ready(Decision::Broken);
            }
        }
    }
}

impl Head {
    fn new(recv: quinn::RecvStream, since: Duration) -> Self {
        Self { recv, bytes: [0; HEAD], length: 0, since }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn is_young(&self, age: Duration) -> bool {
        age.saturating_sub(self.since) < limits::STREAM_HEADER_DEADLINE
    }

    /// Reads on; `None` when the stream has ended.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        Poll::Ready(match ready!(self.recv.poll_read(cx, &mut self.bytes[self.length..])) {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                self.length += n;
                Some(())
            }
        })
    }

    /// The type of a unidirectional stream; `None` when it has ended without one.
    fn poll_type(&mut self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        loop {
            if let Some((kind, _)) = varint::read(self.bytes()) {
                return Poll::Ready(Some(kind));
            }
            if ready!(self.poll_more(cx)).is_none() {
                return Poll::Ready(None);
            }
        }
    }
}

/// Ends a stream in both directions.
pub(super) fn refuse(send: &mut quinn::SendStream, recv: &mut quinn::RecvStream, code: Code) {
    let code = VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX);
    let _ = send.reset(code);
    let _ = recv.stop(code);
}

impl<B: Buf> quic::Connection<B> for Backend {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        while let Poll::Ready(accepted) = self.incoming_uni.poll_next_unpin(cx) {
            match accepted {
                Some(Ok(recv)) => self.undecided_uni.push(Head::new(recv, self.age)),
                Some(Err(error)) => return Poll::Ready(Err(connection_error(error))),
                None => return Poll::Ready(Err(never_ends())),
            }
        }
        let mut at = 0;
        while at < self.undecided_uni.len() {
            let Poll::Ready(kind) = self.undecided_uni[at].poll_type(cx) else {
                at += 1;
                continue;
            };
            let mut head = self.undecided_uni.swap_remove(at);
            match kind {
                Some(WEBTRANSPORT_UNI_STREAM) | None => {
                    let code =
                        VarInt::from_u64(Code::H3_STREAM_CREATION_ERROR.value()).unwrap_or(VarInt::MAX);
                    let _ = head.recv.stop(code);
                }
                Some(CONTROL_STREAM) => {
                    let read = Bytes::copy_from_slice(head.bytes());
                    let after = varint::read(&read).map_or(0, |(_, length)| length);
                    let stream = RecvStream::of_frames(read, after, head.recv, self.quic.clone());
                    return Poll::Ready(Ok(stream));
                }
                Some(_) => {
                    let read = Bytes::copy_from_slice(head.bytes());
                    return Poll::Ready(Ok(RecvStream::new(read, head.recv)));
                }
            }
        }
        Poll::Pending
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream<B>, ConnectionErrorIncoming>> {
        while let Poll::Ready(accepted) = self.incoming_bidi.poll_next_unpin(cx) {
            match accepted {
                Some(Ok((send, recv))) => {
                    self.undecided.push(Undecided { send, head: Head::new(recv, self.age) });
                }
                Some(Err(error)) => return Poll::Ready(Err(connection_error(error))),
                None => return Poll::Ready(Err(never_ends())),
            }
        }
        let mut at = 0;
        while at < self.undecided.len() {
            let Poll::Ready(decision) = self.undecided[at].poll(cx) else {
                at += 1;
                continue;
            };
            let Undecided { mut send, head: Head { mut recv, .. } } = self.undecided.swap_remove(at);
            match decision {
                Decision::Request(head) => {
                    let recv = RecvStream::of_frames(head, 0, recv, self.quic.clone());
                    return Poll::Ready(Ok(BidiStream { send: SendStream::new(send), recv }));
                }
                Decision::Session(session, rest) => {
                    let recv = RecvStream::new(rest, recv);
                    self.session_streams.push_back(SessionStream { session, send, recv });
                }
                Decision::Broken => refuse(&mut send, &mut recv, Code::H3_REQUEST_INCOMPLETE),
            }
        }
        Poll::Pending
    }

    fn opener(&self) -> Opener {
        Opener::new(self.quic.clone())
    }
}

impl<B: Buf> quic::OpenStreams<B> for Backend {
    type BidiStream = BidiStream<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream<B>, StreamErrorIncoming>> {
        quic::OpenStreams::<B>::poll_open_bidi(&mut self.opener, cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream<B>, StreamErrorIncoming>> {
        quic::OpenStreams::<B>::poll_open_send(&mut self.opener, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<B>::close(&mut self.opener, code, reason);
    }
}

/// Opens streams. h3 needs three for itself.
pub(super) struct Opener {
    quic: quinn::Connection,
    opening_bidi: Option<Accepting<Bidi>>,
    opening_uni: Option<Accepting<quinn::SendStream>>,
}

impl Opener {
    fn new(quic: quinn::Connection) -> Self {
        Self { quic, opening_bidi: None, opening_uni: None }
    }
}

impl<B: Buf> quic::OpenStreams<B> for Opener {
    type BidiStream = BidiStream<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream<B>, StreamErrorIncoming>> {
        let opening = self.opening_bidi.get_or_insert_with(|| {
            Box::pin(stream::unfold(self.quic.clone(), async |quic| Some((quic.open_bi().await, quic))))
        });
        let opened = ready!(opening.poll_next_unpin(cx));
        self.opening_bidi = None;
        Poll::Ready(opened_stream(opened).map(|(send, recv)| BidiStream {
            send: SendStream::new(send),
            recv: RecvStream::new(Bytes::new(), recv),
        }))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream<B>, StreamErrorIncoming>> {
        let opening = self.opening_uni.get_or_insert_with(|| {
            Box::pin(stream::unfold(self.quic.clone(), async |quic| Some((quic.open_uni().await, quic))))
        });
        let opened = ready!(opening.poll_next_unpin(cx));
        self.opening_uni = None;
        Poll::Ready(opened_stream(opened).map(SendStream::new))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quic.close(VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX), reason);
    }
}

fn opened_stream<T>(opened: Option<Result<T, quinn::ConnectionError>>) -> Result<T, StreamErrorIncoming> {
    let connection_error = match opened {
        Some(Ok(stream)) => return Ok(stream),
        Some(Err(error)) => connection_error(error),
        None => never_ends(),
    };
    Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error })
}

/// A stream in both directions.
pub(super) struct BidiStream<B: Buf> {
    send: SendStream<B>,
    recv: RecvStream,
}

impl<B: Buf> quic::BidiStream<B> for BidiStream<B> {
    type SendStream = SendStream<B>;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream<B>, RecvStream) {
        (self.send, self.recv)
    }
}

impl<B: Buf> quic::RecvStream for BidiStream<B> {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl<B: Buf> quic::SendStream<B> for BidiStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// The receiving half of a stream, with what was read of it to find out what it is.
pub(super) struct RecvStream {
    head: Bytes,
    stream: quinn::RecvStream,
    /// On streams of HTTP/3 frames: what they may be, and the connection that ends when one is not.
    gauged: Option<(Gauge, quinn::Connection)>,
}

impl RecvStream {
    fn new(head: Bytes, stream: quinn::RecvStream) -> Self {
        Self { head, stream, gauged: None }
    }

    /// A stream of HTTP/3 frames, which begin `after` so many bytes of its head.
    fn of_frames(head: Bytes, after: usize, stream: quinn::RecvStream, quic: quinn::Connection) -> Self {
        let mut gauge = Gauge::default();
        let gauged = match gauge.pass(&head[after..]) {
            Ok(()) => Some((gauge, quic)),
            Err(TooLong) => {
                refuse_load(&quic);
                None
            }
        };
        Self { head, stream, gauged }
    }
}

fn refuse_load(quic: &quinn::Connection) {
    let code = VarInt::from_u64(Code::H3_EXCESSIVE_LOAD.value()).unwrap_or(VarInt::MAX);
    quic.close(code, b"a frame is too long");
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if !self.head.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.head))));
        }
        let mut chunk = [std::mem::MaybeUninit::uninit(); CHUNK];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        if let Err(error) = ready!(self.stream.poll_read_buf(cx, &mut chunk)) {
            return Poll::Ready(Err(read_error(error)));
        }
        if chunk.filled().is_empty() {
            return Poll::Ready(Ok(None));
        }
        if let Some((gauge, quic)) = &mut self.gauged
            && gauge.pass(chunk.filled()).is_err()
        {
            refuse_load(quic);
            let connection_error = connection_error(quinn::ConnectionError::LocallyClosed);
            return Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error }));
        }
        Poll::Ready(Ok(Some(BytesMut::from(chunk.filled()).freeze())))
    }

    fn stop_sending(&mut self, error_code: u64) {
        let _ = self.stream.stop(VarInt::from_u64(error_code).unwrap_or(VarInt::MAX));
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

/// The sending half of a stream.
pub(super) struct SendStream<B: Buf> {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<B>>,
}

impl<B: Buf> SendStream<B> {
    fn new(stream: quinn::SendStream) -> Self {
        Self { stream, writing: None }
    }
}

impl<B: Buf> quic::SendStream<B> for SendStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let written =
                ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk())).map_err(write_error)?;
            data.advance(written);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let connection_error = ConnectionErrorIncoming::InternalError("a write is under way".to_owned());
            return Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error });
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        let _ = self.stream.reset(VarInt::from_u64(reset_code).unwrap_or(VarInt::MAX));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

#[expect(clippy::expect_used, reason = "both sides hold 62 bits")]
fn stream_id(id: quinn::StreamId) -> StreamId {
    u64::from(VarInt::from(id)).try_into().expect("a QUIC stream id")
}

fn never_ends() -> ConnectionErrorIncoming {
    ConnectionErrorIncoming::InternalError("accepting ended".to_owned())
}

fn connection_error(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        ReadError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
        }
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
        }
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}
