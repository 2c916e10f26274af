//! How the subscriptions of a session are read: in turn, through the feeds of the connection that is attached.

use std::{sync::Arc, time::Duration};

use fulmar_core::{
    CloseCode, Item, Now,
    datagrams::Path,
    log::{Class, ReadEnd, ReadLimit},
};

use super::{
    super::{
        Delivery, Feed, FeedEnd, ReadBudget,
        feed::{DatagramBatch, Order, What},
        lock,
        ready::Ready,
    },
    Session, State,
};
use crate::{limits, namespace::Overflow, telemetry::Counters};

/// What came of a subscription's turn.
#[derive(Default)]
struct Turn {
    /// What was given, in bytes.
    given: usize,
    /// The subscription has given everything there is.
    caught_up: bool,
}

impl Session {
    /// Reads on for the ready subscriptions of a feed, in turn. State that is in sync goes to the feed of `datagrams` from then on, if
    /// there is one and this feed goes beside it.
    pub(in super::super) fn read(
        &self,
        feed: &mut Feed,
        datagrams: Option<&Arc<Ready>>,
        budget: ReadBudget,
        now: Now,
        counters: &Counters,
        out: &mut Vec<Delivery>,
    ) -> FeedEnd {
        let mut state = lock(&self.state);
        let mut left = budget.0;
        while left > 0 {
            let Some(key) = feed.ready.pop() else { return FeedEnd::Drained };
            if state.is_lane(key) {
                left = left.saturating_sub(state.read_lane(key, feed, left, now, counters, out));
                continue;
            }
            let turn = state.take_turn(key, feed, left, now, counters, out);
            left = left.saturating_sub(turn.given);
            if let Some(ready) = datagrams
                && turn.caught_up
                && feed.order == Order::BesideDatagrams
                && state.is_state(key)
            {
                state.open_lane(key, ready);
                // The client is told so, on the stream.
                feed.ready.push_back(key);
            }
        }
        FeedEnd::More
    }

    /// Reads on for the feed of a connection's datagrams: signals, and the packets with state that are due; `path` is asked only if
    /// there may be any, and told the time and how many bytes are under way. When the next are due, if nothing happens before.
    pub(in super::super) fn read_datagrams<'a>(
        &self,
        feed: &Feed,
        path: impl FnOnce(Duration, usize) -> Path<'a>,
        budget: ReadBudget,
        now: Now,
        counters: &Counters,
        out: &mut DatagramBatch,
    ) -> (FeedEnd, Option<Duration>) {
        let mut state = lock(&self.state);
        let mut left = budget.0;
        let end = loop {
            if left == 0 {
                break FeedEnd::More;
            }
            let Some(key) = feed.ready.pop() else { break FeedEnd::Drained };
            if state.is_lane(key) {
                state.wake_lane(key, &feed.ready);
                continue;
            }
            left =
                left.saturating_sub(state.take_turn(key, feed, left, now, counters, &mut out.signals).given);
        };
        let State { lanes, subscriptions, .. } = &mut *state;
        let Some(lanes) = lanes.as_mut().filter(|lanes| lanes.are_read_by(&feed.ready) && !lanes.is_empty())
        else {
            return (end, None);
        };
        let path = path(now.monotonic, lanes.bytes_under_way());
        let next = lanes.flush(subscriptions, &path, now, counters, &mut out.effects);
        for key in out.effects.resets.drain(..) {
            state.begin_anew(key);
        }
        (end, next)
    }
}

impl State {
    /// Reads on for one subscription, if it is read through this feed.
    fn take_turn(
        &mut self,
        key: usize,
        feed: &Feed,
        budget: usize,
        now: Now,
        counters: &Counters,
        out: &mut Vec<Delivery>,
    ) -> Turn {
        let Some(it) = self.subscriptions.get_mut(key) else { return Turn::default() };
        if !Arc::ptr_eq(&it.ready, &feed.ready) {
            return Turn::default();
        }
        if std::mem::take(&mut it.unannounced) && feed.order != Order::SnapshotsWhole {
            let what = What::Subscribed(it.channel.begins(&it.reader));
            out.push(Delivery { channel: it.channel.clone(), what });
        }
        let mut items = Vec::new();
        let limit = ReadLimit { bytes: budget.min(limits::TURN_BYTES) };
        let end = it.channel.read(it.slot, &mut it.reader, now, limit, &mut items);
        match end {
            ReadEnd::CaughtUp => {}
            ReadEnd::More if feed.order == Order::SnapshotsWhole && it.reader.base().is_some() => {
                feed.ready.push_front(key);
            }
            ReadEnd::More => feed.ready.push_back(key),
        }
        it.given |= !items.is_empty();
        let channel = it.channel.clone();
        let mut given = 0;
        for item in items {
            given += item.cost();
            match &item {
                Item::Publication(..) => counters.deliveries.increment(),
                Item::Gap(_, slow) => {
                    counters.gaps.increment();
                    if *slow && channel.namespace().overflow == Overflow::Disconnect {
                        if let Some(attached) = &self.attached {
                            attached.fire(CloseCode::FellBehind);
                        }
                        // Nothing of the channel may follow what was missed without a word.
                        self.remove(key, now);
                        break;
                    }
                }
                Item::Reset(_) => counters.resets.increment(),
                Item::Synced(_) => {}
            }
            out.push(Delivery { channel: channel.clone(), what: What::Item(item) });
        }
        Turn { given, caught_up: end == ReadEnd::CaughtUp }
    }

    /// Whether a subscription goes by datagram.
    fn is_lane(&self, key: usize) -> bool {
        self.subscriptions.get(key).is_some_and(|it| it.lane.is_some())
    }

    fn is_state(&self, key: usize) -> bool {
        self.subscriptions.get(key).is_some_and(|it| it.channel.class() == Class::State)
    }

    /// A channel that goes by datagram has something new.
    fn wake_lane(&mut self, key: usize, ready: &Arc<Ready>) {
        let lane = self.subscriptions.get(key).and_then(|it| it.lane);
        if let (Some(lanes), Some(lane)) = (&mut self.lanes, lane)
            && lanes.are_read_by(ready)
        {
            lanes.wake(lane);
        }
    }

    /// A channel that goes by datagram has something for its stream. What is given of it, in bytes.
    fn read_lane(
        &mut self,
        key: usize,
        feed: &Feed,
        budget: usize,
        now: Now,
        counters: &Counters,
        out: &mut Vec<Delivery>,
    ) -> usize {
        let Self { subscriptions, lanes, .. } = self;
        let (Some(lanes), Some(it)) = (lanes, subscriptions.get(key)) else { return 0 };
        if !Arc::ptr_eq(&it.ready, &feed.ready) {
            return 0;
        }
        let budget = budget.min(limits::TURN_BYTES);
        let Some(frame) = lanes.stream(subscriptions, &feed.ready, budget, now, counters) else { return 0 };
        // There may be more, in the next turn.
        feed.ready.push_back(key);
        let given = frame.len();
        out.push(Delivery { channel: it.channel.clone(), what: What::Values(frame) });
        given
    }
}
