//! The beginnings of streams, by which it is told whose they are.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use fulmar_core::codec::varint;
use h3::error::Code;
use tokio::time::{self, Sleep};

use super::quic_code;
use crate::limits;

/// What a bidirectional stream of a session begins with, before the session's id.
pub(super) const WEBTRANSPORT_STREAM: u64 = 0x41;
/// What a unidirectional one begins with.
pub(super) const WEBTRANSPORT_UNI_STREAM: u64 = 0x54;
/// What a stream of pushed responses begins with. RFC 9114, section 6.2.2.
pub(super) const PUSH_STREAM: u64 = 0x01;
/// The longest beginning of a stream: two integers.
const HEAD: usize = 16;

/// A bidirectional stream that has not said yet what it is.
pub(super) struct Undecided {
    pub(super) send: quinn::SendStream,
    pub(super) head: Head,
}

/// The beginning of a stream, as far as it has come.
pub(super) struct Head {
    pub(super) recv: quinn::RecvStream,
    bytes: [u8; HEAD],
    length: usize,
    /// When it has to have said what it is. Made when it did not do so at once, which is rare.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// What a bidirectional stream turned out to be.
pub(super) enum Decision {
    Request(Bytes),
    Session(u64, Bytes),
    /// It ended, or time passed, before it said what it is.
    Broken,
}

impl Undecided {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
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
    pub(super) fn new(recv: quinn::RecvStream) -> Self {
        Self { recv, bytes: [0; HEAD], length: 0, deadline: None }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Reads on; `None` when the stream has ended, or time has passed.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if let Poll::Ready(read) = self.recv.poll_read(cx, &mut self.bytes[self.length..]) {
            let read = read.unwrap_or(0);
            self.length += read;
            return Poll::Ready((read > 0).then_some(()));
        }
        let deadline =
            self.deadline.get_or_insert_with(|| Box::pin(time::sleep(limits::STREAM_HEADER_DEADLINE)));
        deadline.as_mut().poll(cx).map(|()| None)
    }

    /// The type of a unidirectional stream; `None` when it has ended without one, or time has passed.
    pub(super) fn poll_type(&mut self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
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
pub(in super::super) fn refuse(send: &mut quinn::SendStream, recv: &mut quinn::RecvStream, code: Code) {
    let code = quic_code(code.value());
    let _ = send.reset(code);
    let _ = recv.stop(code);
}
