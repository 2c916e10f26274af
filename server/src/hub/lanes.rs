//! What a session sends by datagram: the values of its state channels.

use std::sync::Arc;

use bytes::Bytes;
use fulmar_core::{
    Log, Now, Offset,
    codec::binary::Ack,
    datagrams::{Effects, LaneId, Pace, Path, Sender, Source},
};
use slab::Slab;
use tokio::time::Duration;

use super::{channel::Channel, ready::Ready, session::Subscription};
use crate::telemetry::Counters;

/// The state channels of a session that are in sync, and the feed that wakes whoever sends their datagrams.
#[derive(Debug)]
pub(super) struct Lanes {
    sender: Sender,
    ready: Arc<Ready>,
}

impl Lanes {
    pub(super) fn new(ready: Arc<Ready>) -> Self {
        Self { sender: Sender::default(), ready }
    }

    /// Whether it is this feed that wakes the sender.
    pub(super) fn are_read_by(&self, ready: &Arc<Ready>) -> bool {
        Arc::ptr_eq(&self.ready, ready)
    }

    /// Begins to send a channel by datagram, whose client has everything up to `at`, and lets publications wake the sender.
    pub(super) fn open(&mut self, key: usize, it: &Subscription, at: Offset) -> LaneId {
        let namespace = it.channel().namespace();
        let interval = Duration::from_secs(1) / namespace.max_rate.max(1);
        let pace = Pace { interval, duplicate: namespace.duplicate };
        let lane = self.sender.open(key, it.channel().alias(), stream(it.ready()), at, pace);
        it.channel().rebind(it.slot(), &self.ready, key);
        lane
    }

    /// What waits for room may have some now.
    pub(super) fn poke(&self) {
        self.ready.poke();
    }

    pub(super) fn close(&mut self, lane: LaneId) {
        self.sender.close(lane);
    }

    pub(super) fn wake(&mut self, lane: LaneId) {
        self.sender.wake(lane);
    }

    /// A stream has ended, and its subscriptions with it.
    pub(super) fn end_stream(&mut self, ready: &Arc<Ready>) {
        self.sender.end_stream(stream(ready));
    }

    /// What is under way, in bytes.
    pub(super) fn bytes_under_way(&self) -> usize {
        self.sender.bytes_under_way()
    }

    /// Whether no channel goes by datagram.
    pub(super) fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }

    /// See [`Sender::acknowledge`].
    pub(super) fn acknowledge(&mut self, ack: Ack, now: Now) -> bool {
        self.sender.acknowledge(ack, now.monotonic)
    }

    /// See [`Sender::acknowledge_stream`].
    pub(super) fn acknowledge_stream(&mut self, ready: &Arc<Ready>, number: u64) {
        for key in self.sender.acknowledge_stream(stream(ready), number) {
            ready.push(key);
        }
    }

    /// Makes the packets that are due. When the next are, if nothing happens before.
    pub(super) fn flush(
        &mut self,
        subscriptions: &Slab<Subscription>,
        path: &Path<'_>,
        now: Now,
        counters: &Counters,
        effects: &mut Effects,
    ) -> Option<Duration> {
        self.sender.flush(now.monotonic, path, &mut Logs(subscriptions), effects);
        let counts = std::mem::take(&mut effects.counts);
        counters.deliveries.add(counts.values);
        let counted = [
            (&counters.datagrams_lost, counts.lost),
            (&counters.repairs, counts.repaired),
            (&counters.duplicated_bytes, counts.duplicated),
        ];
        // What is shared by all threads is written to no more than it has to be.
        for (counter, count) in counted {
            if count > 0 {
                counter.add(count);
            }
        }
        for key in effects.streams.drain(..) {
            if let Some(it) = subscriptions.get(key) {
                it.ready().push(key);
            }
        }
        self.sender.next()
    }

    /// The next frame of values for a stream.
    pub(super) fn stream(
        &mut self,
        subscriptions: &Slab<Subscription>,
        ready: &Arc<Ready>,
        budget: usize,
        now: Now,
        counters: &Counters,
    ) -> Option<Bytes> {
        let before = self.sender.next();
        let made = self.sender.stream(stream(ready), budget, now.monotonic, &mut Logs(subscriptions));
        if self.sender.next() != before {
            self.ready.poke();
        }
        let (frame, values) = made?;
        counters.deliveries.add(values as u64);
        counters.oversize.add(values as u64);
        Some(frame)
    }
}

/// What names a stream to the sender: its feed, which lives as long as any subscription on it.
fn stream(ready: &Arc<Ready>) -> usize {
    Arc::as_ptr(ready) as usize
}

/// The logs of a session's subscriptions.
struct Logs<'a>(&'a Slab<Subscription>);

impl Logs<'_> {
    fn with(&self, tag: usize, act: impl FnOnce(&Subscription, &Channel)) {
        if let Some(it) = self.0.get(tag) {
            act(it, it.channel());
        }
    }
}

impl Source for Logs<'_> {
    fn news(&mut self, tag: usize, read: &mut dyn FnMut(&Log) -> bool) {
        self.with(tag, |it, channel| channel.news(it.slot(), read));
    }

    fn look(&mut self, tag: usize, look: &mut dyn FnMut(&Log)) {
        self.with(tag, |_, channel| channel.look(look));
    }
}
