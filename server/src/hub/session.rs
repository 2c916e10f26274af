//! Sessions: the subscriptions of one client, whatever it is connected by.

use std::sync::{Arc, Mutex, OnceLock};

use fulmar_core::{
    ChannelName, CloseCode, Code, Item, Now, Offset, Position, Problem, Reader, Resume, Start,
    log::{Class, Hold, ReadEnd, ReadLimit},
    registry::SessionId,
};
use slab::Slab;
use tokio::sync::Notify;

use super::{
    Delivery, Feed, FeedEnd, Hub, ReadBudget,
    channel::{Channel, Subscribed},
    feed::{Order, What},
    lock,
    ready::Ready,
};
use crate::{limits, namespace::Overflow, telemetry::Counters};

/// One session of the registry.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    subscriptions: Slab<Subscription>,
    /// Tells the attached connection to close.
    attached: Option<Arc<CloseSignal>>,
    /// What the connection that attached last reads; new subscriptions of `POST /send` go there.
    main: Arc<Ready>,
    /// It is no longer in the registry, and takes no subscription any more.
    ended: bool,
}

#[derive(Debug)]
struct Subscription {
    channel: Arc<Channel>,
    /// Its place among the channel's subscribers.
    slot: usize,
    reader: Reader,
    /// The feed that reads it.
    ready: Arc<Ready>,
    /// The feed that it ends with: of the stream on which it was made.
    owner: Arc<Ready>,
    role: Role,
    /// The connection that reads it has yet to be told of it.
    unannounced: bool,
    /// Something of it was given to a connection.
    given: bool,
}

/// A connection that subscribes.
#[derive(Clone, Copy)]
pub(super) struct Subscriber<'a> {
    pub(super) hub: &'a Hub,
    /// Tells whether it is still the one that is attached.
    pub(super) signal: &'a Arc<CloseSignal>,
    /// The feed that the subscription ends with.
    pub(super) owner: &'a Arc<Ready>,
    /// The feed that reads it.
    pub(super) ready: &'a Arc<Ready>,
}

#[derive(Debug)]
enum Role {
    /// What the client subscribed to.
    Reliable {
        /// Values up to here go without having rested, because one of them does not fit a datagram.
        through: Offset,
        /// The datagram lane beside it.
        lane: Option<usize>,
    },
    /// Reads ahead of a reliable subscription, for datagrams. Knows no marks.
    Lane,
}

/// Asks a connection to close, once.
#[derive(Debug, Default)]
pub(super) struct CloseSignal {
    code: OnceLock<CloseCode>,
    notify: Notify,
}

impl CloseSignal {
    pub(super) fn fire(&self, code: CloseCode) {
        if self.code.set(code).is_ok() {
            self.notify.notify_waiters();
        }
    }

    pub(super) fn code(&self) -> Option<CloseCode> {
        self.code.get().copied()
    }

    pub(super) async fn fired(&self) -> CloseCode {
        loop {
            let notified = self.notify.notified();
            if let Some(code) = self.code.get() {
                return *code;
            }
            notified.await;
        }
    }
}

impl Session {
    pub(super) fn new(id: SessionId) -> Arc<Self> {
        Arc::new(Self { id, state: Mutex::default() })
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// Whether it has subscriptions.
    pub(super) fn is_subscribed(&self) -> bool {
        !lock(&self.state).subscriptions.is_empty()
    }

    /// A connection takes over: what was attached is told, and every subscription is read through `ready`.
    pub(super) fn attach(&self, signal: &Arc<CloseSignal>, ready: &Arc<Ready>, now: Now) {
        let mut state = lock(&self.state);
        state.main = ready.clone();
        let before = state.attached.replace(signal.clone());
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, signal)) {
            before.fire(CloseCode::Replaced);
        }
        state.drop_lanes(now);
        for (key, subscription) in &mut state.subscriptions {
            subscription.ready = ready.clone();
            subscription.owner = ready.clone();
            if std::mem::take(&mut subscription.given) {
                subscription.channel.doubt(&mut subscription.reader);
            }
            subscription.unannounced = true;
            subscription.channel.rebind(subscription.slot, ready, key);
        }
    }

    /// The connection ended, the session stays.
    pub(super) fn detach(&self, signal: &Arc<CloseSignal>, now: Now) {
        let mut state = lock(&self.state);
        if state.attached.as_ref().is_some_and(|attached| Arc::ptr_eq(attached, signal)) {
            state.attached = None;
            state.drop_lanes(now);
        }
    }

    /// Asks the attached connection to close.
    pub(super) fn close(&self, code: CloseCode) {
        if let Some(attached) = &lock(&self.state).attached {
            attached.fire(code);
        }
    }

    /// The session ends with all it holds.
    pub(super) fn end(&self, code: CloseCode, now: Now) {
        self.close(code);
        lock(&self.state).ended = true;
        self.unsubscribe_where(now, |_| true);
    }

    /// Every channel and where its reading stands; `None` where a gap or a reset has yet to be told.
    pub(super) fn positions(&self) -> Vec<(ChannelName, Option<Resume>)> {
        let state = lock(&self.state);
        let reliable = state.subscriptions.iter().filter(|(_, it)| it.is_reliable());
        reliable
            .map(|(_, it)| {
                let resume = || Resume { position: it.channel.begins(&it.reader), base: it.reader.base() };
                (it.channel.name().clone(), (!it.reader.is_lost()).then(resume))
            })
            .collect()
    }

    /// Moves subscriptions to where their client says it has read to.
    pub(super) fn seek(&self, start: impl Fn(&ChannelName) -> Option<Start>) {
        let mut state = lock(&self.state);
        for (key, it) in &mut state.subscriptions {
            if let Some(start) = start(it.channel.name()) {
                it.reader = it.channel.reader(&start);
                it.given = false;
                it.channel.rebind(it.slot, &it.ready, key);
            }
        }
    }

    /// Adds a subscription of the attached connection, and gives its channel and where it begins.
    pub(super) fn subscribe(
        &self,
        by: Subscriber<'_>,
        name: &ChannelName,
        start: &Start,
    ) -> Result<(Arc<Channel>, Position), Problem> {
        self.add(by.hub, name, Some(by), start)
    }

    /// Adds a subscription that is read by whatever connection attached last, which is told of it.
    pub(super) fn subscribe_where_attached(
        &self,
        hub: &Hub,
        name: &ChannelName,
        start: &Start,
    ) -> Result<(Arc<Channel>, Position), Problem> {
        self.add(hub, name, None, start)
    }

    fn add(
        &self,
        hub: &Hub,
        name: &ChannelName,
        by: Option<Subscriber<'_>>,
        start: &Start,
    ) -> Result<(Arc<Channel>, Position), Problem> {
        let mut state = lock(&self.state);
        let unannounced = by.is_none();
        let replaced = by.as_ref().is_some_and(|by| {
            !state.attached.as_ref().is_some_and(|attached| Arc::ptr_eq(attached, by.signal))
        });
        if state.ended || replaced {
            return Err(Problem::new(Code::UnknownSession, "the session has ended or goes on elsewhere"));
        }
        let (owner, ready) = by.map_or((&state.main, &state.main), |by| (by.owner, by.ready));
        let (owner, ready) = (owner.clone(), ready.clone());
        if state.find(name).is_some() {
            let message = format!("this session has a subscription to {name}; unsubscribe first");
            return Err(Problem::new(Code::AlreadySubscribed, message));
        }
        let held = state.subscriptions.iter().filter(|(_, it)| it.is_reliable()).count();
        if held >= fulmar_core::limits::SUBSCRIPTIONS {
            let message = format!("a session has at most {held} subscriptions; unsubscribe from one");
            return Err(Problem::new(Code::TooManySubscriptions, message));
        }
        if ready.is_described_by_cursors() && held >= fulmar_core::limits::CURSOR_CHANNELS {
            let message =
                format!("SSE and polling read at most {} channels", fulmar_core::limits::CURSOR_CHANNELS);
            return Err(Problem::new(Code::TooManyChannels, message));
        }
        let entry = state.subscriptions.vacant_entry();
        let (channel, Subscribed { slot, reader, begins }) = hub.with_channel_to_read(name, |channel| {
            Ok(channel.subscribe(&ready, entry.key(), start).map(|subscribed| (channel.clone(), subscribed)))
        })?;
        let role = Role::Reliable { through: Offset::ZERO, lane: None };
        entry.insert(Subscription {
            channel: channel.clone(),
            slot,
            reader,
            ready,
            owner,
            role,
            unannounced,
            given: false,
        });
        Ok((channel, begins))
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&self, name: &ChannelName, now: Now) -> Result<(), Problem> {
        let mut state = lock(&self.state);
        let key = state.find(name).ok_or_else(|| {
            Problem::new(Code::NotSubscribed, format!("this session has no subscription to {name}"))
        })?;
        state.remove(key, now);
        Ok(())
    }

    /// Ends the subscriptions that are read through `ready`.
    pub(super) fn end_feed(&self, ready: &Arc<Ready>, now: Now) {
        self.unsubscribe_where(now, |it| Arc::ptr_eq(&it.owner, ready));
    }

    fn unsubscribe_where(&self, now: Now, which: impl Fn(&Subscription) -> bool) {
        let mut state = lock(&self.state);
        let keys: Vec<_> =
            state.subscriptions.iter().filter(|(_, it)| which(it)).map(|(key, _)| key).collect();
        for key in keys {
            state.remove(key, now);
        }
    }

    /// A value does not fit a datagram: lets the reliable subscription give all up to it at once.
    pub(super) fn expedite(&self, channel: &Arc<Channel>, offset: Offset) {
        let mut state = lock(&self.state);
        for (key, it) in &mut state.subscriptions {
            if let Role::Reliable { through, .. } = &mut it.role
                && Arc::ptr_eq(&it.channel, channel)
                && *through < offset
            {
                *through = offset;
                it.ready.push(key);
            }
        }
    }

    /// Reads on for the feed's ready subscriptions, in turn.
    pub(super) fn read(
        &self,
        feed: &mut Feed,
        lanes: Option<&Arc<Ready>>,
        budget: ReadBudget,
        now: Now,
        counters: &Counters,
        out: &mut Vec<Delivery>,
    ) -> FeedEnd {
        let mut state = lock(&self.state);
        let mut left = budget.0;
        let mut items = Vec::new();
        feed.wake_rested(now);
        while left > 0 {
            let Some(key) = feed.ready.pop() else { return FeedEnd::Drained };
            let Some(it) = state.subscriptions.get_mut(key) else { continue };
            if !Arc::ptr_eq(&it.ready, &feed.ready) {
                continue;
            }
            if std::mem::take(&mut it.unannounced) && feed.order != Order::SnapshotsWhole {
                let what = What::Subscribed(it.channel.begins(&it.reader));
                out.push(Delivery { channel: it.channel.clone(), what });
            }
            let limit = ReadLimit { bytes: left.min(limits::TURN_BYTES), hold: it.hold(feed.order, now) };
            let end = it.channel.read(it.slot, &mut it.reader, now, limit, &mut items);
            match end {
                ReadEnd::CaughtUp => {}
                ReadEnd::More if feed.order == Order::SnapshotsWhole && it.reader.base().is_some() => {
                    feed.ready.push_front(key);
                }
                ReadEnd::More => feed.ready.push_back(key),
                ReadEnd::Held(accepted) => feed.rest(key, accepted),
            }
            it.given |= !items.is_empty();
            let channel = it.channel.clone();
            let wants_lane = feed.order == Order::BesideDatagrams
                && channel.class() == Class::State
                && !it.reader.is_catching_up()
                && matches!(it.role, Role::Reliable { lane: None, .. });
            let at = it.reader.at();
            let marks = it.is_reliable();
            for item in items.drain(..) {
                left = left.saturating_sub(item.cost());
                match &item {
                    Item::Publication(..) => counters.deliveries.increment(),
                    _ if !marks => continue,
                    Item::Gap(_, slow) => {
                        counters.gaps.increment();
                        if *slow && channel.namespace().overflow == Overflow::Disconnect {
                            if let Some(attached) = &state.attached {
                                attached.fire(CloseCode::FellBehind);
                            }
                            // Nothing of the channel may follow what was missed without a word.
                            state.remove(key, now);
                            break;
                        }
                    }
                    Item::Reset(_) => counters.resets.increment(),
                    Item::Synced(_) => {}
                }
                out.push(Delivery { channel: channel.clone(), what: What::Item(item) });
            }
            if let Some(lanes) = lanes.filter(|_| wants_lane) {
                state.open_lane(key, &channel, at, lanes);
            }
        }
        FeedEnd::More
    }
}

impl Subscription {
    fn is_reliable(&self) -> bool {
        matches!(self.role, Role::Reliable { .. })
    }

    fn hold(&self, order: Order, now: Now) -> Hold {
        match self.role {
            Role::Reliable { through, .. }
                if order == Order::BesideDatagrams && self.channel.class() == Class::State =>
            {
                match now.monotonic.checked_sub(limits::STATE_REST) {
                    Some(rested) => Hold::Unless { rested, through },
                    None => Hold::Nothing,
                }
            }
            Role::Reliable { .. } | Role::Lane => Hold::Nothing,
        }
    }
}

impl State {
    fn find(&self, name: &ChannelName) -> Option<usize> {
        let mut reliable = self.subscriptions.iter().filter(|(_, it)| it.is_reliable());
        reliable.find(|(_, it)| it.channel.name() == name).map(|(key, _)| key)
    }

    fn remove(&mut self, key: usize, now: Now) {
        let Some(it) = self.subscriptions.try_remove(key) else { return };
        it.channel.unsubscribe(it.slot, now);
        if let Role::Reliable { lane: Some(lane), .. } = it.role {
            self.remove(lane, now);
        }
    }

    fn open_lane(&mut self, of: usize, channel: &Arc<Channel>, at: Offset, ready: &Arc<Ready>) {
        let entry = self.subscriptions.vacant_entry();
        let key = entry.key();
        let position = Position { epoch: channel.epoch().clone(), offset: at };
        let start = Start::After(position.into());
        let Some(Subscribed { slot, reader, .. }) = channel.subscribe(ready, key, &start) else { return };
        let (channel, ready, owner) = (channel.clone(), ready.clone(), ready.clone());
        let role = Role::Lane;
        entry.insert(Subscription {
            channel,
            slot,
            reader,
            ready,
            owner,
            role,
            unannounced: false,
            given: false,
        });
        if let Some(Role::Reliable { lane, .. }) = self.subscriptions.get_mut(of).map(|it| &mut it.role) {
            *lane = Some(key);
        }
    }

    fn drop_lanes(&mut self, now: Now) {
        let lanes: Vec<_> =
            self.subscriptions.iter().filter(|(_, it)| !it.is_reliable()).map(|(key, _)| key).collect();
        for key in lanes {
            self.remove(key, now);
        }
        for (_, it) in &mut self.subscriptions {
            if let Role::Reliable { lane, .. } = &mut it.role {
                *lane = None;
            }
        }
    }
}
