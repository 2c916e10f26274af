//! Streams as h3 sees them.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use fulmar_core::webtransport::{
    gauge::{Gauge, TooLong},
    settings,
};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::{ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;

/// What one read of a stream takes at most.
const CHUNK: usize = 4096;

/// A stream in both directions.
pub(in super::super) struct BidiStream<B: Buf> {
    pub(super) send: SendStream<B>,
    pub(super) recv: RecvStream,
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
pub(in super::super) struct RecvStream {
    head: Bytes,
    stream: quinn::RecvStream,
    /// On streams of HTTP/3 frames: what they may be, and the connection that ends when one is not.
    gauged: Option<Box<(Gauge, quinn::Connection)>>,
}

impl RecvStream {
    pub(super) fn new(head: Bytes, stream: quinn::RecvStream) -> Self {
        Self { head, stream, gauged: None }
    }

    /// A stream of HTTP/3 frames, which begin `after` so many bytes of its head.
    pub(super) fn of_frames(
        head: Bytes,
        after: usize,
        stream: quinn::RecvStream,
        quic: quinn::Connection,
    ) -> Self {
        let mut gauge = Gauge::default();
        let gauged = match gauge.pass(&head[after..]) {
            Ok(()) => Some(Box::new((gauge, quic))),
            Err(TooLong) => {
                refuse_load(&quic);
                None
            }
        };
        Self { head, stream, gauged }
    }

    /// Asks the client to send no more.
    pub(in super::super) fn stop(&mut self, code: VarInt) {
        let _ = self.stream.stop(code);
    }
}

/// A code on the wire. Those beyond what QUIC can carry become the largest that it can.
pub(in super::super) fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn refuse_load(quic: &quinn::Connection) {
    quic.close(varint(Code::H3_EXCESSIVE_LOAD.value()), b"a frame is too long");
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
        if let Some(gauged) = &mut self.gauged
            && gauged.0.pass(chunk.filled()).is_err()
        {
            refuse_load(&gauged.1);
            let connection_error = connection_error(quinn::ConnectionError::LocallyClosed);
            return Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error }));
        }
        Poll::Ready(Ok(Some(BytesMut::from(chunk.filled()).freeze())))
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.stop(varint(error_code));
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

/// The sending half of a stream.
pub(in super::super) struct SendStream<B: Buf> {
    stream: quinn::SendStream,
    /// What is being written. Apart, since most streams have nothing to write most of the time.
    writing: Option<Box<Writing<B>>>,
}

enum Writing<B: Buf> {
    Given(WriteBuf<B>),
    /// The control stream's beginning, with settings that h3 does not know.
    Preface(Bytes),
}

impl<B: Buf> SendStream<B> {
    pub(super) fn new(stream: quinn::SendStream) -> Self {
        Self { stream, writing: None }
    }
}

impl<B: Buf> BidiStream<B> {
    /// Waits until the client wants no more of what is sent here.
    pub(in super::super) fn stopped(&self) -> impl Future<Output = ()> + Send + Sync + use<B> {
        let stopped = self.send.stream.stopped();
        async move {
            // All was received, or the connection is gone: neither is for this to tell.
            if !matches!(stopped.await, Ok(Some(_))) {
                pending().await
            }
        }
    }
}

impl<B: Buf> Writing<B> {
    fn buf(&mut self) -> &mut dyn Buf {
        match self {
            Self::Given(data) => data,
            Self::Preface(data) => data,
        }
    }
}

impl<B: Buf> quic::SendStream<B> for SendStream<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) =
            self.writing.as_mut().map(|data| data.buf()).filter(|data| data.has_remaining())
        {
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
        let data = data.into();
        // Of all that h3 writes, only the first write on its control stream begins like one.
        let preface =
            (self.stream.id().dir() == quinn::Dir::Uni).then(|| settings::extend(data.chunk())).flatten();
        let writing = preface.map_or(Writing::Given(data), |preface| Writing::Preface(preface.into()));
        self.writing = Some(Box::new(writing));
        Ok(())
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        let _ = self.stream.reset(varint(reset_code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

#[expect(clippy::expect_used, reason = "both sides hold 62 bits")]
fn stream_id(id: quinn::StreamId) -> StreamId {
    u64::from(VarInt::from(id)).try_into().expect("a QUIC stream id")
}

pub(super) fn never_ends() -> ConnectionErrorIncoming {
    ConnectionErrorIncoming::InternalError("accepting ended".to_owned())
}

pub(super) fn connection_error(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
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
