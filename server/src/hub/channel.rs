//! One channel: its log, its idempotency window, and who waits for more of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fulmar_core::{
    ChannelName, Code, Draft, Epoch, Item, Log, Now, Position, Problem, Publication, Reader, Start,
    log::{Class, Dropped, ReadEnd, ReadLimit},
    window::Window,
};
use slab::Slab;

use super::{lock, ready::Ready};
use crate::{namespace::Namespace, telemetry::Counters};

/// Subscribers that a publication wakes for whom room is made beforehand.
const WAKES: usize = 256;

/// A channel of this node. A name whose channel was evicted gets another one, with another epoch and alias.
#[derive(Debug)]
pub(super) struct Channel {
    name: ChannelName,
    alias: u64,
    epoch: Epoch,
    namespace: Arc<Namespace>,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: Log,
    window: Window,
    subscribers: Slab<Subscriber>,
    /// Evicted: nothing may be added any more.
    retired: bool,
    used: Duration,
}

#[derive(Debug)]
struct Subscriber {
    ready: Arc<Ready>,
    key: usize,
    /// Has read everything, and is to be woken by the next publication.
    parked: bool,
}

/// Who publishes, and where it is counted.
pub(super) struct Publisher<'a> {
    /// The scope of publication ids.
    pub(super) name: &'a str,
    pub(super) counters: &'a Counters,
    /// The node's bytes.
    pub(super) bytes: &'a AtomicUsize,
}

/// A new subscription.
pub(super) struct Subscribed {
    /// Its place among the channel's subscribers.
    pub(super) slot: usize,
    pub(super) reader: Reader,
    pub(super) begins: Begins,
}

/// Where reading begins, as its client is told.
#[derive(Clone, Debug)]
pub(super) struct Begins {
    pub(super) position: Position,
    /// Where the client gave a position: whether everything after it follows.
    pub(super) recovered: Option<bool>,
}

impl Begins {
    fn new(log: &Log, reader: &Reader) -> Self {
        Self { position: log.begins(reader), recovered: log.recovered(reader) }
    }
}

impl State {
    fn bytes(&self) -> usize {
        self.log.bytes() + self.window.bytes()
    }
}

impl Channel {
    pub(super) fn new(
        name: ChannelName,
        alias: u64,
        epoch: Epoch,
        namespace: Arc<Namespace>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let log = Log::new(namespace.class, epoch.clone(), namespace.bounds);
        let state = State {
            log,
            window: Window::default(),
            subscribers: Slab::new(),
            retired: false,
            used: Duration::ZERO,
        };
        Arc::new(Self { name, alias, epoch, namespace, counters, state: Mutex::new(state) })
    }

    pub(super) fn name(&self) -> &ChannelName {
        &self.name
    }

    pub(super) fn alias(&self) -> u64 {
        self.alias
    }

    pub(super) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    pub(super) fn class(&self) -> Class {
        self.namespace.class
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives a draft its place and wakes whoever waits, each at most once until it has read on. `None`: evicted.
    pub(super) fn publish(
        &self,
        publisher: &Publisher<'_>,
        draft: Draft,
        now: Now,
    ) -> Result<Option<Position>, Problem> {
        let mut state = lock(&self.state);
        if state.retired {
            return Ok(None);
        }
        state.used = now.monotonic;
        // Looking ids up forgets old ones, so everything from here on is accounted for, whatever comes of it.
        let before = state.bytes();
        let published = self.append(&mut state, publisher, draft, now);
        account(publisher.bytes, before, state.bytes());
        let position = published?;
        // Not grown step by step where it is for many, which may as well be few.
        let mut parked = Vec::with_capacity(state.subscribers.len().min(WAKES));
        parked.extend(state.subscribers.iter_mut().filter_map(|(_, subscriber)| {
            std::mem::take(&mut subscriber.parked).then(|| (subscriber.ready.clone(), subscriber.key))
        }));
        drop(state);
        publisher.counters.wakes.add(parked.len() as u64);
        for (ready, key) in parked {
            ready.push(key);
        }
        Ok(Some(position))
    }

    fn append(
        &self,
        state: &mut State,
        publisher: &Publisher<'_>,
        draft: Draft,
        now: Now,
    ) -> Result<Position, Problem> {
        let id = draft.id.clone();
        if let Some(first) = id.as_ref().and_then(|id| state.window.get(publisher.name, id, now)) {
            publisher.counters.repeats.increment();
            return Ok(first);
        }
        state.log.admits(&draft)?;
        let offset = state
            .log
            .head()
            .next()
            .ok_or_else(|| Problem::new(Code::NodeFull, "the channel has used up its offsets"))?;
        let publication =
            Publication::new(self.name.clone(), self.alias, self.epoch.clone(), offset, now, draft);
        state.log.apply(Arc::new(publication), now);
        let position = Position { epoch: self.epoch.clone(), offset };
        if let Some(id) = id {
            state.window.insert(publisher.name, &id, position.clone(), now);
        }
        publisher.counters.publications.increment();
        Ok(position)
    }

    /// Forgets the older half of its events, so that the node has room for others. Who missed them is told of the gap.
    pub(super) fn halve(&self, bytes: &AtomicUsize) {
        let mut state = lock(&self.state);
        let before = state.bytes();
        let half = state.log.bytes() / 2;
        state.log.shrink(half);
        account(bytes, before, state.bytes());
    }

    /// What its log holds, in bytes.
    pub(super) fn log_bytes(&self) -> usize {
        lock(&self.state).log.bytes()
    }

    /// Adds a subscriber, to be read at once. `None`: evicted.
    pub(super) fn subscribe(&self, ready: &Arc<Ready>, key: usize, start: &Start) -> Option<Subscribed> {
        let mut state = lock(&self.state);
        if state.retired {
            return None;
        }
        let reader = state.log.reader(start);
        let begins = Begins::new(&state.log, &reader);
        let slot = state.subscribers.insert(Subscriber { ready: ready.clone(), key, parked: false });
        ready.push(key);
        Some(Subscribed { slot, reader, begins })
    }

    pub(super) fn unsubscribe(&self, slot: usize, now: Now) {
        let mut state = lock(&self.state);
        state.subscribers.remove(slot);
        state.used = now.monotonic;
    }

    /// Lets another feed read for a subscriber, and at once.
    pub(super) fn rebind(&self, slot: usize, ready: &Arc<Ready>, key: usize) {
        if let Some(subscriber) = lock(&self.state).subscribers.get_mut(slot) {
            *subscriber = Subscriber { ready: ready.clone(), key, parked: false };
        }
        ready.push(key);
    }

    /// Where `reader` stands.
    pub(super) fn begins(&self, reader: &Reader) -> Begins {
        Begins::new(&lock(&self.state).log, reader)
    }

    /// What `reader` gave may not have arrived.
    pub(super) fn doubt(&self, reader: &mut Reader) {
        lock(&self.state).log.doubt(reader);
    }

    /// A reader that begins at `start`.
    pub(super) fn reader(&self, start: &Start) -> Reader {
        lock(&self.state).log.reader(start)
    }

    /// Reads on for a subscriber. One that is caught up is parked until the next publication.
    pub(super) fn read(
        &self,
        slot: usize,
        reader: &mut Reader,
        now: Now,
        limit: ReadLimit,
        out: &mut Vec<Item>,
    ) -> ReadEnd {
        let mut state = lock(&self.state);
        let end = state.log.read(reader, now, limit, out);
        if end == ReadEnd::CaughtUp
            && let Some(subscriber) = state.subscribers.get_mut(slot)
        {
            subscriber.parked = true;
        }
        drop(state);
        let dropped = reader.take_dropped();
        if dropped != Dropped::default() {
            self.counters.signals_expired.add(dropped.expired);
            self.counters.signals_forgotten.add(dropped.forgotten);
            self.counters.conflated.add(dropped.conflated);
        }
        end
    }

    /// Lets `read` see the log for a subscriber, which is parked if it gives `true`: it has read everything.
    pub(super) fn news(&self, slot: usize, read: &mut dyn FnMut(&Log) -> bool) {
        let mut state = lock(&self.state);
        if read(&state.log)
            && let Some(subscriber) = state.subscribers.get_mut(slot)
        {
            subscriber.parked = true;
        }
    }

    /// Lets `look` see the log.
    pub(super) fn look(&self, look: &mut dyn FnMut(&Log)) {
        look(&lock(&self.state).log);
    }

    pub(super) fn trim(&self, bytes: &AtomicUsize, now: Now) {
        let mut state = lock(&self.state);
        if state.retired {
            return;
        }
        let before = state.bytes();
        state.log.trim(now);
        state.window.expire(now);
        account(bytes, before, state.bytes());
    }

    /// Since when nobody used it, if nobody subscribes to it.
    pub(super) fn idle_since(&self) -> Option<Duration> {
        let state = lock(&self.state);
        state.subscribers.is_empty().then_some(state.used)
    }

    /// Closes it for good, and gives the bytes that it held; `None` when somebody subscribed meanwhile.
    pub(super) fn retire(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        if !state.subscribers.is_empty() || state.retired {
            return None;
        }
        state.retired = true;
        Some(state.bytes())
    }
}

fn account(total: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        total.fetch_add(after - before, Ordering::Relaxed);
    } else {
        total.fetch_sub(before - after, Ordering::Relaxed);
    }
}
