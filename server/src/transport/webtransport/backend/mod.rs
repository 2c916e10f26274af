//! Our `h3::quic` backend over quinn.
//!
//! It stands between quinn and h3 to see every incoming bidirectional stream first: one that begins with the
//! WebTransport signal value goes to its session and never into h3, which would wait for it before the next stream and
//! keep a record of it for the connection's life. Unidirectional streams of a session are refused here too: the
//! protocol has none, and h3 would hold one until more of it comes than its header. All accepting is polled from the
//! one task that drives the connection.

mod head;
mod stream;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use fulmar_core::{
    codec::varint,
    webtransport::{error_code, settings::CONTROL_STREAM},
};
use futures_util::{Stream, StreamExt as _, stream as streams};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming},
};

pub(super) use self::{
    head::refuse,
    stream::{BidiStream, RecvStream, SendStream, varint as quic_code},
};
use self::{
    head::{Decision, Head, PUSH_STREAM, Undecided, WEBTRANSPORT_STREAM, WEBTRANSPORT_UNI_STREAM},
    stream::{connection_error, never_ends},
};

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
    /// Streams of sessions in the order of their ids, for [`Self::next_session_stream`].
    session_streams: VecDeque<SessionStream>,
}

/// A stream of a session.
pub(super) struct SessionStream {
    pub(super) session: u64,
    pub(super) send: quinn::SendStream,
    pub(super) recv: RecvStream,
}

impl SessionStream {
    /// Opens one, once the client gives credit for it, and what has to be written on it before all else.
    pub(super) async fn open(
        quic: &quinn::Connection,
        session: u64,
    ) -> Result<(Self, Vec<u8>), quinn::ConnectionError> {
        let (send, recv) = quic.open_bi().await?;
        let mut head = Vec::new();
        varint::write(&mut head, WEBTRANSPORT_STREAM);
        varint::write(&mut head, session);
        Ok((Self { session, send, recv: RecvStream::new(Bytes::new(), recv) }, head))
    }

    /// Refuses a stream of a session that is not here. draft-ietf-webtrans-http3-02, section 4.4.
    pub(super) fn refuse(&mut self) {
        let code = quic_code(error_code::BUFFERED_STREAM_REJECTED);
        let _ = self.send.reset(code);
        self.recv.stop(code);
    }
}

impl Backend {
    pub(super) fn new(quic: quinn::Connection) -> Self {
        let incoming_bidi =
            Box::pin(streams::unfold(quic.clone(), async |quic| Some((quic.accept_bi().await, quic))));
        let incoming_uni =
            Box::pin(streams::unfold(quic.clone(), async |quic| Some((quic.accept_uni().await, quic))));
        Self {
            opener: Opener::new(quic.clone()),
            quic,
            incoming_bidi,
            incoming_uni,
            undecided: Vec::new(),
            undecided_uni: Vec::new(),
            session_streams: VecDeque::new(),
        }
    }

    /// A stream of a session, if one was found while requests were accepted. A session that has not `begun` gets none before
    /// it is known whose the streams are that the client opened earlier: the first is its control stream.
    pub(super) fn next_session_stream(&mut self, begun: impl Fn(u64) -> bool) -> Option<SessionStream> {
        let earliest = self.undecided.iter().map(|it| it.send.id()).min();
        let is_next = |it: &SessionStream| earliest.is_none_or(|id| it.send.id() < id) || begun(it.session);
        let at = self.session_streams.iter().position(is_next)?;
        let stream = self.session_streams.remove(at);
        if self.session_streams.is_empty() {
            self.session_streams = VecDeque::new();
        }
        stream
    }

    /// Idle connections keep no room for streams to come.
    fn shrink(&mut self) {
        if self.undecided.is_empty() {
            self.undecided = Vec::new();
        }
        if self.undecided_uni.is_empty() {
            self.undecided_uni = Vec::new();
        }
    }
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
                Some(Ok(recv)) => self.undecided_uni.push(Head::new(recv)),
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
                Some(PUSH_STREAM) => {
                    // RFC 9114, section 6.2.2: only servers push.
                    let code = quic_code(Code::H3_STREAM_CREATION_ERROR.value());
                    self.quic.close(code, b"a client cannot push");
                }
                Some(WEBTRANSPORT_UNI_STREAM) | None => {
                    let _ = head.recv.stop(quic_code(Code::H3_STREAM_CREATION_ERROR.value()));
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
        self.shrink();
        Poll::Pending
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream<B>, ConnectionErrorIncoming>> {
        while let Poll::Ready(accepted) = self.incoming_bidi.poll_next_unpin(cx) {
            match accepted {
                Some(Ok((send, recv))) => {
                    self.undecided.push(Undecided { send, head: Head::new(recv) });
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
                    let stream = SessionStream { session, send, recv };
                    let at = self.session_streams.partition_point(|it| it.send.id() < stream.send.id());
                    self.session_streams.insert(at, stream);
                }
                Decision::Broken => refuse(&mut send, &mut recv, Code::H3_REQUEST_INCOMPLETE),
            }
        }
        self.shrink();
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
            Box::pin(streams::unfold(self.quic.clone(), async |quic| Some((quic.open_bi().await, quic))))
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
            Box::pin(streams::unfold(self.quic.clone(), async |quic| Some((quic.open_uni().await, quic))))
        });
        let opened = ready!(opening.poll_next_unpin(cx));
        self.opening_uni = None;
        Poll::Ready(opened_stream(opened).map(SendStream::new))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quic.close(quic_code(code.value()), reason);
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
