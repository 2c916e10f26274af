//! Server-sent events: the `text/event-stream` of the HTML standard, section 9.2.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use fulmar_core::{ChannelName, CloseCode, Encoding, Item, Problem, close::Advice, codec::json};
use futures_util::Stream;
use tokio::time;

use super::{
    outlet::{Outlet, Underway},
    progress::Progress,
};
use crate::{
    hub::{Connection, CursorRequest, Delivery, Feed, ReadBudget},
    limits,
};

/// One event stream.
#[derive(Debug)]
pub struct EventStream {
    connection: Connection,
    feed: Feed,
    progress: Progress,
    deliveries: Vec<Delivery>,
    phase: Phase,
    /// Of the TCP connection, and what this stream has handed to it; none on HTTP/3.
    outlet: Option<(Outlet, Underway)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Flowing,
    Over,
}

impl EventStream {
    /// A stream of `channels`.
    ///
    /// # Errors
    /// A subscription's problem.
    pub fn open(
        connection: Connection,
        feed: Feed,
        channels: &[ChannelName],
        request: &CursorRequest,
        outlet: Option<Outlet>,
    ) -> Result<Self, Problem> {
        let subscribed = connection.subscribe_all(&feed.handle(), channels, request)?;
        let progress = Progress::begin(&connection, &subscribed, request);
        let outlet = outlet.map(|outlet| (outlet, Underway::default()));
        Ok(Self { connection, feed, progress, deliveries: Vec::new(), phase: Phase::Opening, outlet })
    }

    /// The body. What is published is encoded when the connection takes it, not before.
    pub fn into_body(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        futures_util::stream::unfold(self, |mut it| async { it.next().await.map(|bytes| (Ok(bytes), it)) })
    }

    async fn next(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Opening => {
                // Also makes proxies and browsers see the stream as open.
                self.phase = Phase::Flowing;
                let mut out = BytesMut::from(format!("retry: {}\n", limits::SSE_RETRY.as_millis()).as_str());
                // Where reading begins, for a client whose connection is lost before anything is published.
                let cursor = self.progress.cursor();
                if !cursor.is_empty() {
                    out.put_slice(b"id: ");
                    out.put_slice(cursor.as_bytes());
                    out.put_u8(b'\n');
                }
                out.put_slice(b": fulmar\n\n");
                Some(out.freeze())
            }
            Phase::Flowing => Some(self.flow().await),
            Phase::Over => None,
        }
    }

    async fn flow(&mut self) -> Bytes {
        // HTTP asks for more when it has room in its own buffers. There it would age.
        if let Some((outlet, underway)) = &self.outlet {
            let sent = async {
                underway.taken().await;
                outlet.clear().await;
            };
            tokio::select! {
                biased;
                code = self.connection.closed() => return self.close(code),
                () = sent => {}
            }
        }
        loop {
            // First, since a busy channel always has something to read.
            if let Some(code) = self.connection.close_code() {
                return self.close(code);
            }
            self.connection.read(&mut self.feed, ReadBudget(limits::BATCH_BYTES), &mut self.deliveries);
            if !self.deliveries.is_empty() {
                return self.render();
            }
            tokio::select! {
                biased;
                code = self.connection.closed() => return self.close(code),
                () = self.feed.ready() => {}
                () = time::sleep(limits::SSE_KEEP_ALIVE) => return Bytes::from_static(b": keep-alive\n\n"),
            }
        }
    }

    fn render(&mut self) -> Bytes {
        let mut out = BytesMut::with_capacity(limits::BATCH_BYTES / 4);
        for delivery in self.deliveries.drain(..) {
            self.progress.deliver(&delivery);
            let frame = delivery.frame(Encoding::Json, self.connection.hub().counters());
            out.put_slice(b"id: ");
            out.put_slice(self.progress.cursor().as_bytes());
            out.put_u8(b'\n');
            match delivery.item() {
                None => {}
                Some(Item::Publication(..)) => {
                    let (open, rest) = json::object_of(&frame);
                    put_data(&mut out, open, rest);
                }
                Some(Item::Gap(..)) => put_named(&mut out, "gap", &frame),
                Some(Item::Reset(_)) => put_named(&mut out, "reset", &frame),
                Some(Item::Synced(_)) => put_named(&mut out, "synced", &frame),
            }
        }
        match &mut self.outlet {
            Some((_, underway)) => underway.hand_on(out.freeze()),
            None => out.freeze(),
        }
    }

    /// The last event, with what to do: an EventSource comes back after `retry`, and is answered 204 when it should
    /// not have.
    fn close(&mut self, code: CloseCode) -> Bytes {
        self.phase = Phase::Over;
        let (retry, message) = (self.connection.retry(), self.connection.close_message(code));
        let retry = match code.advice() {
            Advice::Resume | Advice::Afresh => retry.unwrap_or(limits::SSE_RETRY),
            Advice::StayAway => Duration::from_secs(3600),
        };
        let mut out = BytesMut::new();
        out.put_slice(format!("retry: {}\nid: {}\n", retry.as_millis(), self.progress.cursor()).as_bytes());
        put_named(&mut out, "close", &json::encode(&message));
        out.freeze()
    }
}

fn put_named(out: &mut BytesMut, event: &str, data: &[u8]) {
    out.put_slice(b"event: ");
    out.put_slice(event.as_bytes());
    out.put_u8(b'\n');
    put_data(out, b"", data);
}

/// `data:` lines and the end of the event. A line break in JSON is white space, so how it was written is of no matter.
fn put_data(out: &mut BytesMut, first: &[u8], rest: &[u8]) {
    out.put_slice(b"data: ");
    out.put_slice(first);
    let mut lines = rest.split(|byte| matches!(byte, b'\n' | b'\r'));
    out.put_slice(lines.next().unwrap_or_default());
    for line in lines {
        out.put_slice(b"\ndata: ");
        out.put_slice(line);
    }
    out.put_slice(b"\n\n");
}
