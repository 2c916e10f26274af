//! Sessions: the subscriptions of one client, whatever it is connected by.

mod reading;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fulmar_core::{
    Adopt, ChannelName, CloseCode, Code, Now, Problem, Reader, Resume, Start, codec::binary::Ack,
    datagrams::LaneId, registry::SessionId,
};
use slab::Slab;
use tokio::sync::Notify;

use super::{
    FeedHandle, Hub,
    channel::{Begins, Channel, Subscribed},
    feed::Scope,
    lanes::Lanes,
    lock,
    ready::Ready,
};

/// One session of the registry.
#[derive(Debug)]
pub(super) struct Session {
    /// As which it began.
    id: SessionId,
    /// What it was made by its owner's secret. Set under the registry's lock.
    assumed: OnceLock<SessionId>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    subscriptions: Slab<Subscription>,
    /// Tells the attached connection to close.
    attached: Option<Arc<CloseSignal>>,
    /// What the connection that attached last reads; new subscriptions of `POST /send` go there.
    main: Arc<Ready>,
    /// What goes by datagram, if anything does.
    lanes: Option<Box<Lanes>>,
    /// It is no longer in the registry, and takes no subscription any more.
    ended: bool,
}

#[derive(Debug)]
pub(super) struct Subscription {
    channel: Arc<Channel>,
    /// Its place among the channel's subscribers.
    slot: usize,
    reader: Reader,
    /// The feed that reads it.
    ready: Arc<Ready>,
    /// The feed that it ends with: of the stream on which it was made.
    owner: Arc<Ready>,
    /// State that is in sync, and goes by datagram.
    lane: Option<LaneId>,
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
    /// The connection has yet to be told of the subscription: it is no answer.
    pub(super) unannounced: bool,
}

/// A connection that unsubscribes.
#[derive(Clone, Copy)]
pub(super) struct Unsubscriber<'a> {
    /// Tells whether it is still the one that is attached.
    pub(super) signal: &'a Arc<CloseSignal>,
    /// The feed by which it was asked to.
    pub(super) feed: &'a FeedHandle,
}

/// What a session knows of the connection that is attached. Asks it to close, once.
#[derive(Debug, Default)]
pub(super) struct CloseSignal {
    why: OnceLock<(CloseCode, Option<Duration>)>,
    notify: Notify,
    /// It has had subscriptions, and so frames that are numbered for as long as it lasts.
    begun: AtomicBool,
}

impl CloseSignal {
    pub(super) fn fire(&self, code: CloseCode) {
        self.fire_with(code, None);
    }

    /// As [`Self::fire`], and says when the client should come back.
    fn fire_with(&self, code: CloseCode, retry: Option<Duration>) {
        if self.why.set((code, retry)).is_ok() {
            self.notify.notify_waiters();
        }
    }

    pub(super) fn code(&self) -> Option<CloseCode> {
        self.why.get().map(|(code, _)| *code)
    }

    /// When the client should come back, where it is told.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.why.get().and_then(|(_, retry)| *retry)
    }

    /// Whether the connection has had subscriptions.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) async fn fired(&self) -> CloseCode {
        loop {
            let notified = self.notify.notified();
            if let Some(code) = self.code() {
                return code;
            }
            notified.await;
        }
    }
}

impl Session {
    pub(super) fn new(id: SessionId) -> Arc<Self> {
        Arc::new(Self { id, assumed: OnceLock::new(), state: Mutex::default() })
    }

    pub(super) fn id(&self) -> SessionId {
        self.assumed.get().copied().unwrap_or(self.id)
    }

    /// It is that of a secret from now on, and nothing else changes for its connection, which reads through `ready` what it has not
    /// subscribed to.
    pub(super) fn assume(&self, id: SessionId, ready: &Arc<Ready>) {
        // Once: it is no bare one any more.
        let _ = self.assumed.set(id);
        lock(&self.state).main = ready.clone();
    }

    /// A connection takes over: what was attached is told, and every subscription is read through `ready`, on from where the client
    /// says that it has got to.
    pub(super) fn attach(&self, signal: &Arc<CloseSignal>, ready: &Arc<Ready>, adopt: &Adopt) {
        let mut state = lock(&self.state);
        state.main = ready.clone();
        let before = state.attached.replace(signal.clone());
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, signal)) {
            before.fire(CloseCode::Replaced);
        }
        state.drop_lanes();
        if !state.subscriptions.is_empty() {
            signal.begin();
        }
        for (key, subscription) in &mut state.subscriptions {
            subscription.ready = ready.clone();
            subscription.owner = ready.clone();
            let given = std::mem::take(&mut subscription.given);
            let channel = &subscription.channel;
            if let Some(position) = adopt.positions().and_then(|it| it.get(channel.name())) {
                subscription.reader = channel.reader(&Start::After(position.clone().into()));
            } else {
                subscription.reader.forget_asked();
                if given {
                    channel.doubt(&mut subscription.reader);
                }
            }
            subscription.unannounced = true;
            subscription.channel.rebind(subscription.slot, ready, key);
        }
    }

    /// The connection ended, the session stays.
    pub(super) fn detach(&self, signal: &Arc<CloseSignal>) {
        let mut state = lock(&self.state);
        if state.is_attached(signal) {
            state.attached = None;
            state.drop_lanes();
        }
    }

    /// Asks the attached connection to close, and its client to come back after `retry`.
    pub(super) fn close(&self, code: CloseCode, retry: Option<Duration>) {
        if let Some(attached) = &lock(&self.state).attached {
            attached.fire_with(code, retry);
        }
    }

    /// The session ends with all it holds.
    pub(super) fn end(&self, code: CloseCode, now: Now) {
        self.close(code, None);
        lock(&self.state).ended = true;
        self.unsubscribe_where(now, |_| true);
    }

    /// How many subscriptions it has.
    pub(super) fn subscriptions(&self) -> usize {
        lock(&self.state).subscriptions.len()
    }

    /// Every channel and where its reading stands; `None` where a gap or a reset has yet to be told.
    pub(super) fn positions(&self) -> Vec<(ChannelName, Option<Resume>)> {
        let state = lock(&self.state);
        let subscriptions = state.subscriptions.iter();
        subscriptions
            .map(|(_, it)| {
                let resume =
                    || Resume { position: it.channel.begins(&it.reader).position, base: it.reader.base() };
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
    ) -> Result<(Arc<Channel>, Begins), Problem> {
        self.add(by.hub, name, Some(by), start)
    }

    /// Adds a subscription that is read by whatever connection attached last, which is told of it.
    pub(super) fn subscribe_where_attached(
        &self,
        hub: &Hub,
        name: &ChannelName,
        start: &Start,
    ) -> Result<(Arc<Channel>, Begins), Problem> {
        self.add(hub, name, None, start)
    }

    fn add(
        &self,
        hub: &Hub,
        name: &ChannelName,
        by: Option<Subscriber<'_>>,
        start: &Start,
    ) -> Result<(Arc<Channel>, Begins), Problem> {
        let mut state = lock(&self.state);
        let unannounced = by.is_none_or(|by| by.unannounced);
        if state.ended || by.is_some_and(|by| !state.is_attached(by.signal)) {
            return Err(elsewhere());
        }
        let (owner, ready) = by.map_or((&state.main, &state.main), |by| (by.owner, by.ready));
        let (owner, ready) = (owner.clone(), ready.clone());
        if state.find(name).is_some() {
            let message = format!("this session has a subscription to {name}; unsubscribe first");
            return Err(Problem::new(Code::AlreadySubscribed, message));
        }
        let held = state.subscriptions.len();
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
        entry.insert(Subscription {
            channel: channel.clone(),
            slot,
            reader,
            ready,
            owner,
            lane: None,
            unannounced,
            given: false,
        });
        if let Some(attached) = &state.attached {
            attached.begin();
        }
        Ok((channel, begins))
    }

    /// Ends a subscription, for a connection if it is still the one that is attached, or for whoever has the session's secret.
    pub(super) fn unsubscribe(
        &self,
        by: Option<Unsubscriber<'_>>,
        name: &ChannelName,
        now: Now,
    ) -> Result<(), Problem> {
        let mut state = lock(&self.state);
        if by.is_some_and(|by| !state.is_attached(by.signal)) {
            return Err(elsewhere());
        }
        let missing = |message| Problem::new(Code::NotSubscribed, message);
        let key =
            state.find(name).ok_or_else(|| missing(format!("this session has no subscription to {name}")))?;
        if by.is_some_and(|by| !state.may_end(key, by.feed)) {
            let message = format!(
                "the subscription to {name} was made on another stream; unsubscribe there or on the control stream"
            );
            return Err(missing(message));
        }
        state.remove(key, now);
        Ok(())
    }

    /// Ends the subscriptions that are read through `ready`.
    pub(super) fn end_feed(&self, ready: &Arc<Ready>, now: Now) {
        self.unsubscribe_where(now, |it| Arc::ptr_eq(&it.owner, ready));
        if let Some(lanes) = &mut lock(&self.state).lanes {
            lanes.end_stream(ready);
        }
    }

    fn unsubscribe_where(&self, now: Now, which: impl Fn(&Subscription) -> bool) {
        let mut state = lock(&self.state);
        let keys: Vec<_> =
            state.subscriptions.iter().filter(|(_, it)| which(it)).map(|(key, _)| key).collect();
        for key in keys {
            state.remove(key, now);
        }
    }

    /// Takes in what a client acknowledges by datagram to the connection whose datagrams `ready` wakes. Whether there is something
    /// to send because of it.
    pub(super) fn acknowledge(&self, ready: &Arc<Ready>, ack: Ack, now: Now) -> bool {
        let mut state = lock(&self.state);
        // Those of a connection that took over are none of this one's business.
        let lanes = state.lanes.as_mut().filter(|lanes| lanes.are_read_by(ready));
        lanes.is_some_and(|lanes| lanes.acknowledge(ack, now))
    }

    /// Takes in what a client acknowledges on a stream.
    pub(super) fn acknowledge_stream(&self, ready: &Arc<Ready>, number: u64) {
        if let Some(lanes) = &mut lock(&self.state).lanes {
            lanes.acknowledge_stream(ready, number);
        }
    }
}

impl Subscription {
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    pub(super) fn ready(&self) -> &Arc<Ready> {
        &self.ready
    }
}

fn elsewhere() -> Problem {
    Problem::new(Code::UnknownSession, "the session has ended or goes on elsewhere")
}

impl State {
    /// Whether it is this connection that is attached.
    fn is_attached(&self, signal: &Arc<CloseSignal>) -> bool {
        self.attached.as_ref().is_some_and(|attached| Arc::ptr_eq(attached, signal))
    }

    fn find(&self, name: &ChannelName) -> Option<usize> {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.find(|(_, it)| it.channel.name() == name).map(|(key, _)| key)
    }

    /// Whether messages that come with a feed may end a subscription.
    fn may_end(&self, key: usize, feed: &FeedHandle) -> bool {
        let made_with = |it: &Subscription| Arc::ptr_eq(&it.owner, &feed.ready);
        feed.scope == Scope::Session || self.subscriptions.get(key).is_some_and(made_with)
    }

    fn remove(&mut self, key: usize, now: Now) {
        self.close_lane(key);
        let Some(it) = self.subscriptions.try_remove(key) else { return };
        it.channel.unsubscribe(it.slot, now);
    }

    /// From here on a channel goes by datagram.
    fn open_lane(&mut self, key: usize, ready: &Arc<Ready>) {
        let Some(it) = self.subscriptions.get_mut(key) else { return };
        let lanes = self.lanes.get_or_insert_with(|| Box::new(Lanes::new(ready.clone())));
        it.lane = Some(lanes.open(key, it, it.reader.at()));
        // The low-water offset at least, and with it a position.
        it.given = true;
    }

    /// A channel no longer goes by datagram; publications wake the feed of its subscription.
    fn close_lane(&mut self, key: usize) {
        let Self { subscriptions, lanes, .. } = self;
        let Some(it) = subscriptions.get_mut(key) else { return };
        let (Some(lane), Some(open)) = (it.lane.take(), lanes.as_mut()) else { return };
        open.close(lane);
        open.poke();
        it.channel.rebind(it.slot, &it.ready, key);
    }

    /// What a client has of a channel is not known any more: it gets a snapshot.
    fn begin_anew(&mut self, key: usize) {
        if let Some(it) = self.subscriptions.get_mut(key) {
            it.channel.doubt(&mut it.reader);
        }
        self.close_lane(key);
    }

    fn drop_lanes(&mut self) {
        let open: Vec<_> =
            self.subscriptions.iter().filter(|(_, it)| it.lane.is_some()).map(|(key, _)| key).collect();
        for key in open {
            self.close_lane(key);
        }
        self.lanes = None;
    }
}
